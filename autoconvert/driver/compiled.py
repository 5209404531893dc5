"""What a conversion makes of a model before it reads a weight: all that another set of weights needs to be linked."""

from dataclasses import dataclass

from autoconvert.ir.fusion import Fusion
from autoconvert.ir.state import State
from autoconvert.ir.weight import Weight
from autoconvert.report.check_result import CheckResult


@dataclass(frozen=True)
class Compiled:
    """Weightless flatbuffers by signature, and what linking, checking and reporting ask about them.

    `context` and `prefill` are lengths in positions, the longest prefill first; `checks` are those that were
    passed with the weights at hand when it was compiled.
    """

    graphs: dict[str, bytes]
    weights: dict[str, Weight]
    states: tuple[State, ...]
    context: int
    prefill: tuple[int, ...]
    vocabulary: int
    fusion: Fusion
    checks: tuple[CheckResult, ...]

    @property
    def sources(self) -> list[str]:
        """The names of the module's tensors that the graphs reach."""
        return [source for weight in self.weights.values() for source in weight.sources]
