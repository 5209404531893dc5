"""`autoconvert.explain`: which blocks of a model were fused, which were not, and why, of whatever can be converted."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autoconvert.diagnose.explained import explained_model
from autoconvert.diagnose.explanation import Explanation, explanation_of
from autoconvert.diagnose.scaffold import write_scaffold
from autoconvert.driver.library import in_order, libraries
from autoconvert.driver.settings import choose
from autoconvert.quantization.choices import DEFAULT
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.source import plan_source
from autoconvert.system.output import expanded


class Explained(Explanation):
    """An explanation that prints as `autoconvert explain` does."""

    def __str__(self) -> str:
        return "\n".join(line.plain for line in explained_model(self))


def explain(
    model: str | Path | nn.Module,
    *,
    context: int | None = None,
    patterns: Sequence[str | Path | Pattern] = (),
    scaffold: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> Explained:
    """Traces and rewrites `model` as `convert` takes it, reading no weight; `print` the result to read it.

    With `scaffold`, a file that is not there yet, the beginning of a pattern is written for what is missing, or for the
    first block that was not fused. A model that is refused is told by `missing` and `refusal`, and raises nothing.

    Raises:
        InputError: the model, a pattern or an option is not usable, or there is nothing to write a pattern for.
        CheckFailed: a rewrite gives other numbers than what it replaces.
        MachineError: the hub cannot be reached.
    """
    known = in_order(libraries(patterns))
    source = plan_source(model, revision=revision, token=token, trust_remote_code=trust_remote_code)
    settings = choose(
        source.config, context=context, prefill=None, quantize=DEFAULT, formats=("litertlm",), verify="quick"
    )
    explanation = Explained(**vars(explanation_of(source, settings, known)))
    if scaffold is not None:
        write_scaffold(explanation, expanded(scaffold))
    return explanation
