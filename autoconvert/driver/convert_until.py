"""A conversion that ends early: after a pass, or with the program of a signature."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from autoconvert.check.rewrites import RewriteChecks
from autoconvert.driver.compile import rewrite_within, text_model
from autoconvert.driver.convert import read_source
from autoconvert.driver.convert_source import dump_of
from autoconvert.driver.library import in_order, libraries
from autoconvert.driver.settings import Settings, choose
from autoconvert.errors import InputError
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.pipeline import PASSES
from autoconvert.passes.specialize_shapes import signature_programs
from autoconvert.report.progress import Display, Silent, Timeline
from autoconvert.rewrite.pass_manager import run_names
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.source import Source

if TYPE_CHECKING:
    from autoconvert.dump.dump import Dump

_NAMES = run_names(PASSES)


def convert_until(
    model: str | Path | nn.Module,
    stop_after: str,
    dump: str | Path | None = None,
    *,
    context: int | None = None,
    prefill: Sequence[int] | None = None,
    verify: str = "quick",
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    patterns: Sequence[str | Path | Pattern] = (),
    display: Display | None = None,
) -> Program:
    """The program of `model` as the pass `stop_after` leaves it; what every pass made up to there lies in `dump`.

    Where a pass runs several times, `canonicalize-2` is its second run; `prefill_N` and `decode` are the program
    with the shapes of that signature. The options are those of `convert`. Nothing else is written, not even to the
    cache.

    Raises:
        InputError: there is no such pass or signature; the model, a pattern or the options are not usable.
        Refused: something up to there is not proven to convert.
        CheckFailed: a rewrite gives other numbers than the model.
        MachineError: disk, memory, access or network.
    """
    if stop_after not in _NAMES and not re.fullmatch(r"decode|prefill_\d+", stop_after):
        raise _unknown(stop_after, ["prefill_N", "decode"])
    timeline = Timeline(display or Silent())
    outside = libraries(patterns)
    with timeline.stage("read model") as stage:
        source = read_source(model, stage, revision, token, trust_remote_code, allow_pickle)
    settings = choose(
        source.config, context=context, prefill=prefill, quantize="none", formats=("tflite",), verify=verify
    )
    with dump_of(source, dump, outside) as dumped:
        return _rewritten(source, settings, stop_after, timeline, in_order(outside), dumped)


def _rewritten(
    source: Source,
    settings: Settings,
    stop_after: str,
    timeline: Timeline,
    patterns: Sequence[Pattern],
    dump: "Dump | None",
) -> Program:
    passes = PASSES[: _NAMES.index(stop_after) + 1] if stop_after in _NAMES else PASSES
    checks = RewriteChecks() if settings.verify != "off" else None
    program, settings = rewrite_within(source, settings, checks, passes, timeline, patterns, dump)
    if stop_after in _NAMES:
        return program
    parts = dict(signature_programs(text_model(program, settings), CPU.port_names))
    if stop_after not in parts:
        raise _unknown(stop_after, list(parts))
    for name in list(parts)[: list(parts).index(stop_after) + 1]:
        if dump:
            dump.specialized(name, parts[name])
    return parts[stop_after]


def _unknown(name: str, signatures: Sequence[str]) -> InputError:
    known = ", ".join([*_NAMES, *signatures])
    return InputError(f"There is no pass or signature {name} to stop after.", hint=f"Choose one of: {known}.")
