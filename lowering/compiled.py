"""What a model is before a weight is read: all that another set of weights needs to be linked."""

from collections.abc import Mapping
from dataclasses import dataclass

from autoconvert.ir.fusion import Fusion
from autoconvert.ir.interface import Interface, Role
from autoconvert.ir.model import Signature
from autoconvert.ir.state import State
from autoconvert.ir.weight import Weight


@dataclass(frozen=True)
class Compiled:
    """Weightless flatbuffers by signature, and what linking, checking and reporting ask about them.

    `interfaces` are those of the model's programs by name; `capacity` is how many positions the caches hold,
    `prefill` the lengths of chunks, the longest first, and none where a chunk may have any; `windows` are how many
    positions attention looks back at most; `why_fixed` says why lengths are fixed where nobody chose them; `notes` say
    what costs more than it must.
    """

    graphs: Mapping[str, bytes]
    signatures: tuple[Signature, ...]
    interfaces: Mapping[str, Interface]
    weights: Mapping[str, Weight]
    states: tuple[State, ...]
    capacity: int
    prefill: tuple[int, ...]
    windows: tuple[int, ...]
    fusion: Fusion
    why_fixed: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sources(self) -> list[str]:
        """The names of the module's tensors that the graphs reach."""
        return [source for weight in self.weights.values() for source in weight.sources]

    @property
    def vocabulary(self) -> int:
        """How many tokens the logits tell apart."""
        outputs = (port for interface in self.interfaces.values() for port in interface.outputs)
        return next(int(port.shape[-1]) for port in outputs if port.role is Role.LOGITS)
