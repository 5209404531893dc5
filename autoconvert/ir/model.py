"""A model: named programs over one set of weights, and the signatures by which they are called."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autoconvert.errors import AutoconvertError
from autoconvert.ir.interface import Role
from autoconvert.ir.program import Program
from autoconvert.ir.state import State
from autoconvert.ir.weight import Weight


@dataclass(frozen=True)
class Signature:
    """One way to call a program: its name in the file, and a number for each of the program's symbols.

    With HISTORY in `sizes`, states are that long. `open` has another number for every size that stays open in the file,
    where each call decides it: two numbers tell such a size from all others. Outputs of the roles in `without` are left
    out.
    """

    name: str
    program: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    without: frozenset[Role] = frozenset()
    open: Mapping[str, int] = field(default_factory=dict)

    @property
    def elsewhere(self) -> "Signature":
        """The same with the other number for each open size."""
        return replace(self, sizes={**self.sizes, **self.open}, open={})


@dataclass(frozen=True)
class Model:
    """Programs by name; a weight that several of them name is one."""

    programs: Mapping[str, Program]
    signatures: tuple[Signature, ...]

    @property
    def states(self) -> tuple[State, ...]:
        """Every state once, by whichever programs it is kept."""
        return tuple({state.name: state for program in self.programs.values() for state in program.states}.values())

    @property
    def weights(self) -> dict[str, Weight]:
        """Every weight by its name.

        Raises:
            AutoconvertError: two programs call different weights by one name.
        """
        found: dict[str, Weight] = {}
        for name, program in self.programs.items():
            for weight in program.weights.values():
                known = found.setdefault(weight.name, weight)
                if known is not weight and not known.is_as(weight):
                    raise AutoconvertError(f"program {name} has another weight {weight.name} than those before it")
        return found
