"""A recipe: which encoding each weight gets, by its name in the module and by how the graph uses it."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float32 import FLOAT32

# An operator of the schema and the number of the operand.
Use = tuple[str, int]

# The operands that hold a table of rows: [out, in] of FULLY_CONNECTED, [tokens, width] of EMBEDDING_LOOKUP.
ROW_OPERANDS = frozenset({("FULLY_CONNECTED", 1), ("EMBEDDING_LOOKUP", 1)})


@dataclass(frozen=True)
class RecipeRule:
    """Which weights are stored in `encoding`: those of `rank` axes that match `path` and are used as `uses` alone.

    `path` is a regular expression for the whole name of the module's tensor that the weight is made of, for each name
    where it is made of several. A weight that nothing uses matches no rule.
    """

    encoding: Encoding
    path: str = ".*"
    uses: frozenset[Use] = ROW_OPERANDS
    rank: int = 2

    def names(self, sources: Sequence[str]) -> bool:
        """Whether `path` matches all of these names."""
        return all(re.fullmatch(self.path, source) for source in sources)


@dataclass(frozen=True)
class Recipe:
    """The rules by which weights are stored; the first that fits decides, and where none does it is float32.

    `summary` says in a few words what becomes of a file. `rounding` is the most that quantizing may change the logits:
    root mean square, in standard deviations of the logits. Zero says that nothing is rounded, and the file is then held
    to the model's own logits.
    """

    name: str
    summary: str
    rules: tuple[RecipeRule, ...] = ()
    rounding: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether a file holds the numbers of the model."""
        return self.rounding == 0

    def encoding_of(self, sources: Sequence[str], uses: Collection[Use], rank: int) -> Encoding:
        """The encoding of a weight made of `sources`, tensors of the module, with `rank` axes and used as `uses`."""
        fitting = (r for r in self.rules if r.rank == rank and uses and r.uses.issuperset(uses) and r.names(sources))
        return next((rule.encoding for rule in fitting), FLOAT32)

    def encodings_of(self, sources: Sequence[str]) -> tuple[Encoding, ...]:
        """Every encoding that a weight made of `sources` may have, whatever its uses and its rank."""
        ruled = (rule.encoding for rule in self.rules if rule.names(sources))
        return tuple(dict.fromkeys((*ruled, FLOAT32)))

    def expected_of(self, source: str, rank: int) -> Encoding:
        """The encoding of a tensor of the module before its uses are known: as if it had those that rules ask for."""
        return next((rule.encoding for rule in self.rules if rule.rank == rank and rule.names([source])), FLOAT32)
