"""Einstein sums of two operands, as the one product of matrices that they are."""

import string
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autoconvert.rewriting import arguments, emit, is_symbolic, shape

aten = torch.ops.aten


@dataclass(frozen=True)
class _Equation:
    """The letters of both operands and of the result, an ellipsis written out."""

    left: str
    right: str
    result: str

    @property
    def batch(self) -> str:
        return "".join(c for c in self.result if c in self.left and c in self.right)

    @property
    def summed(self) -> str:
        return "".join(c for c in self.left if c in self.right and c not in self.result)

    def only(self, operand: str) -> str:
        """What one operand alone has and the result keeps, in the result's order."""
        other = self.right if operand is self.left else self.left
        return "".join(c for c in self.result if c in operand and c not in other)


def einsum_is_product(node: fx.Node) -> fx.Node | None:
    """Each operand's axes are ordered, and one `matmul` sums; letters of one operand alone are broadcast.

    What is more than that, as a diagonal or a third operand, stays as it is.
    """
    if node.target is not aten.einsum.default or len(arguments(node)) != 2 or len(arguments(node)[1]) != 2:
        return None
    text, (left, right) = arguments(node)
    equation = _parsed(text, len(shape(left)), len(shape(right)))
    if equation is None or not _agree(equation, left, right):
        return None
    product, letters = (
        _matrix_product(node, equation, left, right) if equation.summed else _pointwise(node, equation, left, right)
    )
    return _ordered(node, product, letters, equation.result)


def _parsed(text: str, left_rank: int, right_rank: int) -> _Equation | None:
    """None where a letter stands twice in one place, or in one operand only without being in the result."""
    text = text.replace(" ", "")
    operands, arrow, result = text.partition("->")
    sides = operands.split(",")
    if len(sides) != 2:
        return None
    free = "".join(c for c in string.ascii_letters if c not in text)
    counts = [rank - len(side.replace("...", "")) for side, rank in zip(sides, (left_rank, right_rank), strict=True)]
    counts = [count if "..." in side else 0 for side, count in zip(sides, counts, strict=True)]
    extra = free[: max(counts)]
    # Axes of an ellipsis are aligned from the end.
    left, right = (side.replace("...", extra[len(extra) - count :]) for side, count in zip(sides, counts, strict=True))
    if not arrow:
        once = sorted(c for c in set(left + right) - set(extra) if (left + right).count(c) == 1)
        result = "..." + "".join(once)
    result = result.replace("...", extra)
    is_plain = all(len(set(letters)) == len(letters) for letters in (left, right, result))
    is_lone = any(c not in result and (c not in left or c not in right) for c in left + right)
    return _Equation(left, right, result) if is_plain and not is_lone and set(result) <= set(left + right) else None


def _agree(equation: _Equation, left: fx.Node, right: fx.Node) -> bool:
    """A letter has one size: a broadcast of size 1 under a letter is left alone."""
    sizes = dict(zip(equation.left, map(str, shape(left)), strict=True))
    return all(sizes.get(c, str(size)) == str(size) for c, size in zip(equation.right, shape(right), strict=True))


def _matrix_product(node: fx.Node, equation: _Equation, left: fx.Node, right: fx.Node) -> tuple[fx.Node, str]:
    """The product and the letters of its axes."""
    batch, summed = equation.batch, equation.summed
    rows, columns = equation.only(equation.left), equation.only(equation.right)
    if not batch and not any(map(is_symbolic, shape(right))):
        # One matrix for every row: all that the right operand keeps is one axis, split again afterwards.
        sizes = [
            size for letter in columns for c, size in zip(equation.right, shape(right), strict=True) if c == letter
        ]
        left = _merged(node, _ordered(node, left, equation.left, rows + summed), len(rows), len(summed))
        right = _ordered(node, right, equation.right, summed + columns)
        right = _merged(node, _merged(node, right, 0, len(summed)), 1, len(columns))
        product = emit(node.graph, aten.matmul.default, left, right, like=node)
        return _split(node, product, sizes), rows + columns
    outer_rows, row = rows[:-1], rows[-1:]
    outer_columns, column = columns[:-1], columns[-1:]
    outer = "".join(c for c in equation.result if c in batch + outer_rows + outer_columns)
    left = _spread(node, left, equation.left, outer, row + summed)
    left = _merged(node, left, len(outer) + len(row), len(summed))
    left = left if row else emit(node.graph, aten.unsqueeze.default, left, -2, like=node)
    is_transposed = column and equation.right.index(column) < equation.right.index(summed[-1])
    right = _spread(node, right, equation.right, outer, column + summed if is_transposed else summed + column)
    right = _merged(node, right, len(outer) + (1 if is_transposed else 0), len(summed))
    right = right if column else emit(node.graph, aten.unsqueeze.default, right, -1, like=node)
    if is_transposed:
        right = emit(node.graph, aten.transpose.int, right, -2, -1, like=node)
    product = emit(node.graph, aten.matmul.default, left, right, like=node)
    if not row:
        product = emit(node.graph, aten.squeeze.dim, product, -2, like=node)
    if not column:
        product = emit(node.graph, aten.squeeze.dim, product, -1, like=node)
    return product, outer + row + column


def _pointwise(node: fx.Node, equation: _Equation, left: fx.Node, right: fx.Node) -> tuple[fx.Node, str]:
    sides = []
    for value, letters in ((left, equation.left), (right, equation.right)):
        # Broadcasting puts axes of size 1 in front by itself.
        first = min((equation.result.index(c) for c in letters), default=len(equation.result))
        sides.append(_spread(node, value, letters, equation.result[first:], ""))
    return emit(node.graph, aten.mul.Tensor, *sides, like=node), equation.result


def _spread(node: fx.Node, value: fx.Node, letters: str, outer: str, inner: str) -> fx.Node:
    """The axes in the order outer, inner; an outer letter that the value lacks is an axis of size 1."""
    value = _ordered(node, value, letters, "".join(c for c in outer if c in letters) + inner)
    for index, letter in enumerate(outer):
        if letter not in letters:
            value = emit(node.graph, aten.unsqueeze.default, value, index, like=node)
    return value


def _ordered(node: fx.Node, value: fx.Node, letters: str, order: str) -> fx.Node:
    permutation = [letters.index(letter) for letter in order]
    if permutation == sorted(permutation):
        return value
    return emit(node.graph, aten.permute.default, value, permutation, like=node)


def _merged(node: fx.Node, value: fx.Node, first: int, count: int) -> fx.Node:
    """`count` axes from `first` on as one; none become an axis of size 1."""
    if count == 1:
        return value
    if count == 0:
        return emit(node.graph, aten.unsqueeze.default, value, first, like=node)
    sizes: list[Any] = [-1 if is_symbolic(size) else size for size in shape(value)]
    merged = 1
    for size in shape(value)[first : first + count]:
        merged = merged * size  # type: ignore[assignment]
    written = -1 if is_symbolic(merged) else merged
    return emit(node.graph, aten.reshape.default, value, [*sizes[:first], written, *sizes[first + count :]], like=node)


def _split(node: fx.Node, value: fx.Node, sizes: list[Any]) -> fx.Node:
    """The last axis as axes of `sizes`."""
    if len(sizes) == 1:
        return value
    if not sizes:
        return emit(node.graph, aten.squeeze.dim, value, -1, like=node)
    before = [-1 if is_symbolic(size) else size for size in shape(value)[:-1]]
    return emit(node.graph, aten.reshape.default, value, [*before, *sizes], like=node)


RULES = (einsum_is_product,)
