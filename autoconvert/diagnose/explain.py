"""`autoconvert.explain`: which blocks of a model were fused, which were not, and why, of whatever can be converted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Explained(Explanation):
    """An explanation that prints as `autoconvert explain` does.

    `given` are the files of patterns that were asked for, `scaffold` is the one that was written, with `what_is_left`.
    """

    given: tuple[str, ...] = ()
    scaffold: str = ""
    what_is_left: str = ""

    def __str__(self) -> str:
        file = self.scaffold or "blocks.py"
        lines = [line.plain for line in explained_model(self, file=file, given=self.given)]
        return "\n".join([*lines, f"wrote {file}: {self.what_is_left}"] if self.scaffold else lines)


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
    given = tuple(str(each) for each in patterns if not isinstance(each, Pattern))
    explanation = Explained(**vars(explanation_of(source, settings, known)), given=given)
    if scaffold is None:
        return explanation
    written = write_scaffold(explanation, expanded(scaffold))
    return replace(explanation, scaffold=str(scaffold), what_is_left=written.what_is_left)
