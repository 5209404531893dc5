"""What a conversion will find, told before it starts: from the configuration and the headers of the weights."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from autoconvert.driver.compile import rewrite_within, text_model
from autoconvert.driver.needs import Needs, file_size, needs_of, parameters_of
from autoconvert.driver.ready import tokenizer_of
from autoconvert.driver.settings import Settings
from autoconvert.errors import Refused
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.specialize_shapes import signature_programs
from autoconvert.patterns import PATTERNS
from autoconvert.quantization.recipes import RECIPES
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.accounting import require
from autoconvert.source.source import Source

# Measured with `python benchmarks/convert.py` on two cores. Compiling is measured in the plan itself; lowering adds
# most of that once more.
_SECONDS_TO_START = 6.5
_COMPILING_TIMES = 1.8
_SECONDS_PER_BYTE_READ = 2.2e-9
_SECONDS_PER_BYTE_WRITTEN = 3e-9


@dataclass(frozen=True)
class Plan:
    """What is known beforehand.

    `parameters` are counted where the graph reaches them, `files` are bytes of a `.tflite` by recipe, `wall` is why
    the model will be refused.
    """

    name: str
    parameters: int
    checkpoint_bytes: int
    settings: Settings
    blocks: Mapping[str, int]
    wall: Refused | None
    files: Mapping[str, int]
    needs: Needs
    seconds: float


def plan_of(source: Source, settings: Settings, patterns: Sequence[Pattern] = PATTERNS) -> Plan:
    """Traces and rewrites the module of `source`, which needs no weight, and estimates the rest from shapes.

    Raises:
        InputError: the tokenizer cannot be used, or the checkpoint lacks a tensor that the graph reaches.
        Refused: the runtime has no form of the tokenizer.
    """
    begun = time.perf_counter()
    tokenizer_of(source, settings)
    blocks: Mapping[str, int] = {}
    wall = None
    reached = [name for name, _ in source.module.named_parameters()]
    try:
        program, settings = rewrite_within(source, settings, patterns=patterns)
        blocks = program.fusion.blocks
        reached = [name for weight in program.weights.values() for name in weight.sources]
        require(source, reached)
        dict(signature_programs(text_model(program, settings), CPU.port_names))
    except Refused as refusal:
        wall = refusal
    compiling = time.perf_counter() - begun
    parameters = parameters_of(source, reached)
    signatures = settings.signatures
    recipes = {**RECIPES, settings.quantize.name: settings.quantize}
    files = {name: file_size(parameters, recipe, signatures) for name, recipe in recipes.items()}
    checkpoint_bytes = sum(source.checkpoint.values())
    moving = _SECONDS_PER_BYTE_READ * checkpoint_bytes + _SECONDS_PER_BYTE_WRITTEN * files[settings.quantize.name]
    return Plan(
        name=source.name,
        parameters=sum(prod(parameter.shape) for parameter in parameters.values()),
        checkpoint_bytes=checkpoint_bytes,
        settings=settings,
        blocks=blocks,
        wall=wall,
        files=files,
        needs=needs_of(source, settings),
        seconds=_SECONDS_TO_START + _COMPILING_TIMES * compiling + moving,
    )
