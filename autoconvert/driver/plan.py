"""`autoconvert.plan`: what a conversion would find and need, of whatever can be converted."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autoconvert.driver.estimate import Plan, plan_of
from autoconvert.driver.library import in_order, libraries
from autoconvert.driver.planned import planned
from autoconvert.driver.settings import choose
from autoconvert.quantization.choices import DEFAULT
from autoconvert.quantization.recipe import Recipe
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.source import plan_source


class Planned(Plan):
    """A plan that prints as `autoconvert plan` does, and the refusal with it."""

    def __str__(self) -> str:
        refused = [] if self.wall is None else [f"refused: {self.wall}"]
        return "\n".join([*(line.plain for line in planned(self)), *refused])


def plan(
    model: str | Path | nn.Module,
    *,
    quantize: str | Path | Recipe = DEFAULT,
    context: int | None = None,
    prefill: Sequence[int] | None = None,
    formats: Sequence[str] = ("litertlm",),
    verify: str = "quick",
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    patterns: Sequence[str | Path | Pattern] = (),
) -> Planned:
    """What `convert` would find and need with the same arguments, reading no weight; `print` the result to read it.

    A model that would be refused has a `wall`, and raises nothing.

    Raises:
        InputError: the model, its tokenizer, a pattern or the options are not usable, or the checkpoint lacks a tensor.
        Refused: the runtime has no form of the tokenizer.
        MachineError: the hub cannot be reached.
    """
    outside = libraries(patterns)
    source = plan_source(
        model, revision=revision, token=token, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    settings = choose(
        source.config, context=context, prefill=prefill, quantize=quantize, formats=formats, verify=verify
    )
    return Planned(**vars(plan_of(source, settings, in_order(outside))))
