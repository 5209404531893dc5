"""Tests of patterns in one line: `check(PATTERN)` alone, `check(PATTERN, module, x)` in place and in the runtime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from autoconvert.check.pattern import canonicalized, check_other_sizes, check_pattern
from autoconvert.check.region import RegionCheck, same_numbers
from autoconvert.driver.convert import convert
from autoconvert.errors import CheckFailed
from autoconvert.ir.fusion import Fusion
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.litert import lower
from autoconvert.passes.decompose import decompose
from autoconvert.passes.fuse import fuse
from autoconvert.patterns import PATTERNS
from autoconvert.quantization.recipes import UNQUANTIZED
from autoconvert.rewrite.pattern import Pattern, operations_of

_BLOCK = "block"


def check(
    pattern: Pattern,
    module: nn.Module | str | Path | None = None,
    *inputs: Tensor,
    times: int | None = None,
    patterns: Sequence[Pattern] = (),
    **options: Any,
) -> int:
    """Checks `pattern` alone, then in `module` if there is one; gives how often it matched there.

    Alone it must find itself, and both functions give the same numbers on the example and at other sizes. With
    `inputs` the module is a block, called with them; without, a model from tokens to logits, or its folder, converted
    with `options` as `autoconvert.convert` takes them. Either way the pattern must match, exactly `times` if that is
    given; each match is run beside its replacement; and what the runtime computes from the .tflite is compared with
    the module. `patterns` are others that the model needs beside the built-in ones.

    Raises:
        InputError: the pattern is wrong by itself.
        CheckFailed: it does not match, or not as often; or numbers differ.
        Refused: the model is not proven to convert.
    """
    check_pattern(pattern)
    check_other_sizes(pattern)
    if module is None:
        return 0
    tried = (pattern, *(other for other in patterns if other is not pattern))
    if inputs:
        assert isinstance(module, nn.Module), "a block is a module"
        fusion = _check_block(module.eval(), inputs, (*tried, *PATTERNS))
        found, nearest = fusion.patterns, [str(miss) for miss in fusion.nearest()[:1]]
    else:
        found, nearest = _check_model(module, tried, options), []
    count = found.get(pattern.name, 0)
    if count == 0 or times not in (None, count):
        expected = "" if times is None else f", not {times}"
        raise CheckFailed(f"Pattern {pattern.name} matched {count} times{expected}.", hint="\n".join(nearest))
    return count


def _check_model(
    module: nn.Module | str | Path, patterns: Sequence[Pattern], options: dict[str, Any]
) -> dict[str, int]:
    chosen: dict[str, Any] = {"quantize": UNQUANTIZED, "formats": ("tflite",), "context": 64, "cache": False} | options
    with tempfile.TemporaryDirectory() as folder:
        return convert(module, Path(folder) / "model", patterns=patterns, **chosen).report.patterns


def _check_block(module: nn.Module, inputs: Sequence[Tensor], patterns: Sequence[Pattern]) -> Fusion:
    buffers = dict(module.named_buffers())
    parameters = {**dict(module.named_parameters()), **buffers}
    # Names of a module have dots, those of arguments have none.
    names = {name: f"weight_{index}" for index, name in enumerate(parameters)}
    given = {f"x{index}": value for index, value in enumerate(inputs)}
    values = {**given, **{names[name]: value.detach() for name, value in parameters.items()}}

    def run(**values: Tensor) -> Tensor:
        own = {name: values[argument] for name, argument in names.items()}
        result: Tensor = torch.func.functional_call(module, own, tuple(values[name] for name in given))
        return result

    program = fuse(Program(canonicalized(run, values, [names[name] for name in buffers])), patterns, RegionCheck())
    program = decompose(program, operations_of(patterns))
    with torch.no_grad():
        expected = module(*inputs)
    if not same_numbers(made := _in_the_runtime(program, values), expected):
        apart = (made - expected).abs().max()
        fused = ", ".join(program.fusion.patterns)
        raise CheckFailed(
            f"With {fused or 'no pattern'}, the runtime gives other numbers than {type(module).__name__}, up to "
            f"{apart:.1e} apart.",
            hint="`becomes` may hold for other numbers than these; check the pattern alone, and at their size.",
        )
    return program.fusion


def _in_the_runtime(program: Program, values: dict[str, Tensor]) -> Tensor:
    """What the interpreter computes from the lowered graph, its weights inputs."""
    output = program.graph.graph.output_node()
    output.args = ({_BLOCK: output.args[0]},)
    program.graph.recompile()
    runner = Interpreter(model_content=lower(_BLOCK, program, CPU)).get_signature_runner(_BLOCK)
    taken = runner.get_input_details()
    outputs = runner(**{name: value.numpy() for name, value in values.items() if name in taken})
    return torch.from_numpy(outputs[_BLOCK])
