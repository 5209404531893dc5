"""Rows of classes: of each row what its own class computes, once every class has computed all rows.

Where classes differ in parameters alone, all rows are computed once, each with the parameters of its own class.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import fx

from autoconvert.analysis.chosen_rows import Entries
from autoconvert.analysis.one_hot import below, class_mask
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import shape
from autoconvert.passes.row_tables import laid_back
from autoconvert.passes.rows_to_pairs import at_once

aten = torch.ops.aten


@dataclass(frozen=True)
class Rows:
    """A value computed of the chosen rows: the same of all rows, in the order of the table, and in the proof."""

    entries: Entries
    dense: fx.Node
    proven: fx.Node
    is_picked: bool = False

    @cached_property
    def axis(self) -> int | None:
        """The axis, from the end, along which the rows stand."""
        return self.entries.proof.axis(self.proven)


@dataclass
class Chains:
    """Rows that were written over one value, a class after the other: by what the last of them gave."""

    rows: Mapping[fx.Node, Rows]
    weights: Container[str]
    _of_class: dict[fx.Node, tuple[fx.Node, dict[int, fx.Node]]] = field(default_factory=dict)

    def written(
        self,
        base: fx.Node,
        new: fx.Node,
        value: fx.Node,
        of_table: Mapping[int, int],
        sizes: Sequence[Any],
    ) -> fx.Node:
        """`new`, which is `base` with the rows `value` written over it; once each class has, nothing of it is left."""
        mask = self.rows[value].entries.mask
        of_class = None if mask is None else class_mask(mask)
        if of_class is None or new is base:
            return new
        numbers, before = self._of_class.get(base, (of_class.numbers, {}))
        written = {**(before if numbers is of_class.numbers else {}), of_class.number: value}
        self._of_class[new] = (of_class.numbers, written)
        limit, count = below(of_class.numbers), len(written)
        is_whole = limit is not None and limit <= count and set(written) == set(range(count))
        if not is_whole or of_class.axes != tuple(range(len(sizes))):
            return new
        dense = by_parameters(of_class.numbers, [written[number] for number in range(count)], self.rows, self.weights)
        return new if dense is None else laid_back(base, of_table, sizes, dense, None, new, adds=False)


def by_parameters(
    numbers: fx.Node, of_classes: Sequence[fx.Node], rows: Mapping[fx.Node, Rows], weights: Container[str]
) -> fx.Node | None:
    """What all classes from 0 on compute, with the parameters of each row's own; None where they are not alike."""
    picked = [_picked_for(node, rows) for node in of_classes]
    dense = [[rows[node].dense for node in of_class] for of_class in picked]
    stand_first = all(rows[node].axis == -len(shape(rows[node].dense)) for node in chain(of_classes, *picked))
    if not stand_first or any(of_class != dense[0] for of_class in dense):
        return None
    return at_once(numbers, of_classes, picked, dense[0], weights)


def by_masks(parts: Sequence[Rows], like: fx.Node) -> fx.Node:
    """The same from what each class has computed of all rows."""
    result = parts[-1].dense
    for part in reversed(parts[:-1]):
        mask, axis = part.entries.mask, part.axis
        assert mask is not None and axis is not None
        for _ in range(-1 - axis):
            mask = emit(like.graph, aten.unsqueeze.default, mask, -1, like=like)
        result = emit(like.graph, aten.where.self, mask, part.dense, result, like=like)
    return result


def _picked_for(node: fx.Node, rows: Mapping[fx.Node, Rows]) -> list[fx.Node]:
    """The picked rows that `node` is computed of, in the order of its operands."""
    found: dict[fx.Node, None] = {}
    pending, seen = [node], set[fx.Node]()
    while pending:
        each = pending.pop()
        if each in seen or each not in rows:
            continue
        seen.add(each)
        if rows[each].is_picked:
            found[each] = None
        else:
            pending.extend(reversed(each.all_input_nodes))
    return list(found)
