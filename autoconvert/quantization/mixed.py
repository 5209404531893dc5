"""A recipe of which some tables are stored in more bits: those that cost most, for their size, when rounded."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.recipe import Recipe, RecipeRule, Use
from autoconvert.quantization.recipes import RECIPES, UNQUANTIZED

# What is finer than a recipe, and coarser, by the bits of its smallest encoding.
_FINER: Mapping[int, Recipe] = {4: RECIPES["int8"], 8: RECIPES["fp16"], 16: UNQUANTIZED}
_COARSER: Mapping[int, Recipe] = {8: RECIPES["int4"], 16: RECIPES["int8"], 32: RECIPES["fp16"]}


@dataclass(frozen=True)
class Table:
    """A parameter of the module: its name, its shape as rows, and what it will be used for."""

    name: str
    shape: tuple[int, ...]
    uses: frozenset[Use]


@dataclass(frozen=True)
class Mixture:
    """A `coarse` recipe, and the `fine` one by which some tables are stored instead."""

    coarse: Recipe
    fine: Recipe

    def with_fine(self, names: Collection[str]) -> Recipe:
        """The recipe where the tables of these names are stored finer."""
        if not names:
            return self.coarse
        rules = (*_only(names, (*self.fine.rules, RecipeRule(FLOAT32))), *self.coarse.rules)
        return replace(
            self.coarse, name=f"{self.coarse.name} with {len(names)} tables in {self.fine.name}", rules=rules
        )

    def of_group(self, names: Collection[str]) -> Recipe:
        """The recipe that rounds these tables alone."""
        return replace(self.coarse, rules=_only(names, self.coarse.rules))

    def saved(self, table: Table) -> int:
        """Bytes that the coarse encoding of a table is smaller."""
        encodings = (each.encoding_of([table.name], table.uses, table.shape) for each in (self.coarse, self.fine))
        coarse, fine = (encoding.data_size(table.shape) for encoding in encodings)
        return fine - coarse


def finer_than(recipe: Recipe) -> Mixture | None:
    """The mixture that begins with `recipe`; None where nothing is finer."""
    fine = _FINER.get(_bits(recipe))
    return None if fine is None else Mixture(recipe, fine)


def coarser_than(recipe: Recipe) -> Mixture | None:
    """The mixture that ends with `recipe`; None where nothing is coarser."""
    coarse = _COARSER.get(_bits(recipe))
    return None if coarse is None else Mixture(coarse, recipe)


def _only(names: Collection[str], rules: Sequence[RecipeRule]) -> tuple[RecipeRule, ...]:
    """The rules where they are for one of these names."""
    one_of = "|".join(map(re.escape, sorted(names)))
    return tuple(replace(rule, path=f"^(?=(?:{one_of})$).*?(?:{rule.path})") for rule in rules)


def groups_of(tables: Sequence[Table], mixture: Mixture, most: int) -> list[list[Table]]:
    """The tables that a mixture may store finer: those of a block, or of a layer where there are more than `most`.

    Those of a block, such as its query, key and value, may be one table in the file.
    """
    movable = [table for table in tables if mixture.saved(table) > 0]
    blocks = _grouped(movable, _block)
    return blocks if len(blocks) <= most else _grouped(movable, _layer)


def _grouped(tables: Sequence[Table], key: Callable[[str], str]) -> list[list[Table]]:
    groups: dict[str, list[Table]] = {}
    for table in tables:
        groups.setdefault(key(table.name), []).append(table)
    return list(groups.values())


def _bits(recipe: Recipe) -> int:
    return min((rule.encoding.bits for rule in recipe.rules), default=32)


def _block(name: str) -> str:
    """The name of the module that holds a linear's module, within its layer."""
    holder = name.rpartition(".")[0].rpartition(".")[0]
    return max(holder, _layer(name), key=len)


def _layer(name: str) -> str:
    """The name up to its first number."""
    parts = name.split(".")
    first = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: first + 1])
