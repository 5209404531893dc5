"""A recipe: which encoding each weight gets, by its name in the module and by how the graph uses it."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float32 import FLOAT32

# An operator of the schema and the number of the operand.
Use = tuple[str, int]

# The operands that hold a table of rows: [out, in], and [tokens, width].
MULTIPLIED: Use = ("FULLY_CONNECTED", 1)
LOOKED_UP: Use = ("EMBEDDING_LOOKUP", 1)
# The table whose product is the last one before the logits: what is rounded there, nothing evens out.
HEAD: Use = ("HEAD", 1)
ROW_OPERANDS = frozenset({MULTIPLIED, LOOKED_UP, HEAD})


@dataclass(frozen=True)
class RecipeRule:
    """Which weights are stored in `encoding`: those of `rank` axes that match `path`, for each of these `uses`.

    `path` is a regular expression that is searched in the name of the module's tensor that the weight is made of; it
    must be in each where there are several. No rule is for a weight of fewer than `least` numbers, nor for one that
    its blocks do not divide.
    """

    encoding: Encoding
    path: str = ""
    uses: frozenset[Use] = ROW_OPERANDS
    rank: int = 2
    least: int = 0

    def names(self, sources: Sequence[str]) -> bool:
        """Whether `path` is in all of these names."""
        return all(re.search(self.path, source) for source in sources)

    def fits(self, sources: Sequence[str], use: Use, shape: Sequence[int]) -> bool:
        """Whether a weight made of `sources`, of this shape, may be stored so where it is used as `use`."""
        has_room = self.rank == len(shape) and prod(shape) >= self.least and self.encoding.fits(tuple(shape))
        return use in self.uses and has_room and self.names(sources)


@dataclass(frozen=True)
class Recipe:
    """The rules by which weights are stored; the first that fits a use decides, and where none does it is float32.

    What is used in several ways is stored in the encoding of most bits that one of them gets.

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

    def encoding_of(self, sources: Sequence[str], uses: Collection[Use], shape: Sequence[int]) -> Encoding:
        """The encoding of a weight made of `sources`, tensors of the module, of this shape and used as `uses`."""
        found = (self._encoding_for(sources, use, shape) for use in sorted(uses))
        return max(found, key=lambda encoding: encoding.bits, default=FLOAT32)

    def _encoding_for(self, sources: Sequence[str], use: Use, shape: Sequence[int]) -> Encoding:
        return next((rule.encoding for rule in self.rules if rule.fits(sources, use, shape)), FLOAT32)

    def encodings_of(self, sources: Sequence[str]) -> tuple[Encoding, ...]:
        """Every encoding that a weight made of `sources` may have, whatever its uses and its rank."""
        ruled = (rule.encoding for rule in self.rules if rule.names(sources))
        return tuple(dict.fromkeys((*ruled, FLOAT32)))
