"""One type from its configuration to its row: build, save, convert, run, compare, count."""

import copy
import gc
import os
import resource
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from file_runner import FileRunner
from multiply_adds import Growth, growth, model_of, products
from outcome import CONTEXT, SMALLER_CONTEXT, Outcome, Stage, Status, brief
from parity import PREFILL_LENGTH, TEXT_LENGTH, compare, says_something
from tiny_models import NotBuildable, build, config_of, logits_of, sample_tokens, save
from torch import Tensor

from autoconvert.check.graph import check_graph
from autoconvert.check.parity import reference_of
from autoconvert.driver.cache import FOLDER_VARIABLE
from autoconvert.driver.compile import Stages
from autoconvert.driver.convert import convert
from autoconvert.driver.trace_and_rewrite import SINGLE_STEP
from autoconvert.errors import AutoconvertError, CheckFailed, Refused
from autoconvert.ir.fusion import Fusion
from autoconvert.ir.model import Model
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.litert import lower
from autoconvert.passes import hoist_projections
from autoconvert.passes.pipeline import PASSES
from autoconvert.passes.specialize_shapes import signature_programs
from autoconvert.quantization.choices import DEFAULT
from autoconvert.rewrite.pass_manager import Options, Pass, run_passes
from autoconvert.source.source import load_source

# The step of the table that each stage or pass of a conversion ends; what is not here is within the next.
_ENDS = {"trace": "trace", "fuse": "fuse", "check graph": "state", "check constants": "lower"}

# What comes after it asks for the context.
_LAST_WITHOUT_CONTEXT = hoist_projections.PASS


class _Enough(Exception):
    """What was asked of a conversion is there before its end."""


@dataclass
class _Watcher:
    """Sees a conversion go by, as its display and after its passes."""

    stage: Stage
    passed: list[str] = field(default_factory=list)
    is_of_steps: bool = False
    fusion: Fusion = field(default_factory=Fusion)
    program: Program | None = None
    before_context: Program | None = None

    def started(self, stage: str) -> None:
        if stage == "lower":
            self._ended("check graph")

    def advanced(self, stage: str, done: int, total: int) -> None: ...

    def finished(self, stage: str, seconds: float, note: str) -> None:
        if stage == "trace":
            self.is_of_steps = note.endswith(SINGLE_STEP)
        self._ended(stage)

    def failed(self, stage: str) -> None: ...

    def after(self, step: Pass, program: Program) -> None:
        self.program, self.fusion = program, program.fusion
        if step is _LAST_WITHOUT_CONTEXT:
            self.before_context = program.with_graph(copy.deepcopy(program.graph))
        self._ended(step.name)

    def _ended(self, what: str) -> None:
        if (step := _ENDS.get(what)) and step not in self.passed:
            self.passed.append(step)


def examine(model_type: str, stage: Stage = "file") -> Outcome:
    """The outcome of a type; whatever goes wrong is in it."""
    torch.set_num_threads(1)
    _forget_peak()
    begun = time.perf_counter()
    watcher = _Watcher(stage)
    try:
        outcome = _examined(model_type, stage, watcher)
    except NotBuildable as error:
        outcome = Outcome(model_type, "not buildable", str(error))
    except Exception as error:
        status, reason = _blamed(error)
        outcome = Outcome(model_type, status, reason)
    passed = tuple(dict.fromkeys((*watcher.passed, *outcome.passed)))
    return replace(
        outcome,
        passed=passed,
        is_of_steps=watcher.is_of_steps,
        blocks=watcher.fusion.blocks,
        patterns=watcher.fusion.patterns,
        seconds=time.perf_counter() - begun,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _forget_peak() -> None:
    """From here on, ru_maxrss is the peak since (proc_pid_clear_refs(5): 5 resets it)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def _examined(model_type: str, stage: Stage, watcher: _Watcher) -> Outcome:
    with (
        tempfile.TemporaryDirectory() as temporary,
        # The second conversion finds what the first compiled, and none finds what another run did.
        patch.dict(os.environ, {FOLDER_VARIABLE: str(Path(temporary) / "cache")}),
    ):
        folder = Path(temporary)
        tokens, reference = _save(model_type, folder / "model")
        if not says_something(reference):
            return Outcome(model_type, "failed", "the model's own logits are not finite or all the same")
        try:
            bundle = convert(
                folder / "model",
                folder / "file",
                quantize="none",
                context=CONTEXT,
                formats=("tflite",),
                display=watcher,
                stages=Stages(
                    watch=watcher.after,
                    before_lower=partial(_checked, folder / "model") if stage == "graph" else Stages.before_lower,
                ),
            )
        except _Enough:
            watcher.finished("check graph", 0.0, "")
            return Outcome(model_type, "right")
        file, why_fixed = bundle.files["tflite"], str(bundle.report.settings["why_fixed"])
        fixed = file if why_fixed else _fixed(folder, watcher.program)
        files = dict.fromkeys((file, fixed))
        found = max((compare(FileRunner(each), tokens, reference) for each in files), key=lambda parity: parity.worst)
        if not found.is_right:
            return Outcome(model_type, "wrong", str(found), ("run",), distance=found.worst)
        counted = _growth(_decode_alone(watcher.before_context, SMALLER_CONTEXT), fixed)
        watcher.passed += ["run", "parity"]
        _check_rounded(folder)
    reason = "" if counted.only_in_attention else f"decode grows in {', '.join(counted.elsewhere)}"
    return Outcome(
        model_type,
        "wrong" if reason else "right",
        reason,
        (DEFAULT,),
        why_fixed=why_fixed,
        distance=found.worst,
        multiply_adds=counted,
    )


def _checked(folder: Path, program: Program) -> Program:
    """Runs the stateful graph beside the model; raises _Enough where they agree."""
    source = load_source(folder)
    with reference_of(source) as reference:
        check_graph(program, source.weights, reference, reference.token_by_token)
    raise _Enough


def _save(model_type: str, folder: Path) -> tuple[list[int], Tensor]:
    """Writes the model; gives sample tokens and the model's own logits for them."""
    config = config_of(model_type)
    model = build(config)
    tokens = sample_tokens(config, TEXT_LENGTH)
    reference = logits_of(model, tokens)
    save(model, config, folder)
    del model
    gc.collect()
    return tokens, reference


def _fixed(folder: Path, rewritten: Program | None) -> Path:
    """A file of fixed lengths: decode grows with its context, and chunks are padded."""
    return convert(
        folder / "model",
        folder / "fixed",
        quantize="none",
        context=CONTEXT,
        prefill=[PREFILL_LENGTH],
        formats=("tflite",),
        verify="off",
        stages=Stages(rewritten=rewritten),
    ).files["tflite"]


def _decode_alone(program: Program | None, context: int) -> Any:
    """Decode at another context with fixed lengths, a `ModelT`, from a program that knows no context yet."""
    assert program is not None
    passes = PASSES[PASSES.index(_LAST_WITHOUT_CONTEXT) + 1 :]
    rewritten = run_passes(program, Options(CPU.capacity(context), (), lambda *_: None, CPU), passes)
    *_, signature = CPU.text_signatures("decoder", (1,))
    ((name, part),) = signature_programs(Model({"decoder": rewritten}, (signature,)), CPU.port_names)
    return model_of(lower(name, part, CPU))


def _check_rounded(folder: Path) -> None:
    """Converts as the command line does when nothing is said, with its checks; raises CheckFailed."""
    convert(folder / "model", folder / "rounded", context=CONTEXT, formats=("tflite",))


def _growth(smaller: Any, file: Path) -> Growth:
    at_smaller, at_larger = (products(model, "decode") for model in (smaller, model_of(file.read_bytes())))
    return growth(at_smaller, at_larger, CONTEXT / SMALLER_CONTEXT)


def _blamed(error: Exception) -> tuple[Status, str]:
    if isinstance(error, Refused):
        return "refused", brief(error.message, error.hint)
    if isinstance(error, CheckFailed):
        return "wrong", brief(error.message)
    if isinstance(error, AutoconvertError):
        return "failed", f"{type(error).__name__}: {brief(error.message)}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return "failed", brief(f"{type(error).__name__}{place}: {str(error).strip()[:300]}")
