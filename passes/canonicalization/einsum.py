"""Einstein sums, as the products of matrices that they are."""

import string
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, is_symbolic, shape
from autoconvert.rewrite.rule import rule

aten = torch.ops.aten


@dataclass(frozen=True)
class _Equation:
    """The letters of two operands and of their product; what is in none but one operand is in the product."""

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


@rule(aten.einsum.default)
def _einsum_is_product(node: fx.Node) -> fx.Node | None:
    """Operand after operand is multiplied to those before: axes are ordered, and one `matmul` sums.

    Letters of one operand alone are summed first, or broadcast. A diagonal stays as it is.
    """
    if len(arguments(node)) != 2:
        return None
    text, operands = arguments(node)
    parsed = _parsed(text, [len(shape(operand)) for operand in operands])
    if parsed is None or not _agree(parsed[0], operands):
        return None
    sides, result = parsed
    values = list(operands)
    for index, side in enumerate(sides):
        others = "".join((*sides[:index], *sides[index + 1 :], result))
        lone = [axis for axis, letter in enumerate(side) if letter not in others]
        if lone:
            values[index] = emit(node.graph, aten.sum.dim_IntList, values[index], lone, like=node)
            sides[index] = "".join(letter for letter in side if letter in others)
    product, letters = values[0], sides[0]
    for index in range(1, len(sides)):
        later = "".join((*sides[index + 1 :], result))
        kept = "".join(dict.fromkeys(c for c in letters + sides[index] if c in later))
        equation = _Equation(letters, sides[index], result if index == len(sides) - 1 else kept)
        multiply = _matrix_product if equation.summed else _pointwise
        product, letters = multiply(node, equation, product, values[index])
    return _ordered(node, product, letters, result)


def _parsed(text: str, ranks: list[int]) -> tuple[list[str], str] | None:
    """The letters of each operand and of the result, an ellipsis as letters; None where one stands twice in one."""
    text = text.replace(" ", "")
    left, arrow, result = text.partition("->")
    written = left.split(",")
    free = "".join(c for c in string.ascii_letters if c not in text)
    counts = [rank - len(side) + 3 if "..." in side else 0 for side, rank in zip(written, ranks, strict=True)]
    extra = free[: max(counts)]
    # Axes of an ellipsis are aligned from the end.
    sides = [side.replace("...", extra[len(extra) - count :]) for side, count in zip(written, counts, strict=True)]
    if not arrow:
        letters = "".join(sides)
        result = "..." + "".join(sorted(c for c in set(letters) - set(extra) if letters.count(c) == 1))
    result = result.replace("...", extra)
    is_plain = all(len(set(letters)) == len(letters) for letters in (*sides, result))
    return (sides, result) if is_plain and set(result) <= set("".join(sides)) else None


def _agree(sides: list[str], operands: list[fx.Node]) -> bool:
    """A letter has one size: a broadcast of size 1 under a letter is left alone."""
    sizes: dict[str, str] = {}
    return all(
        sizes.setdefault(letter, str(size)) == str(size)
        for side, operand in zip(sides, operands, strict=True)
        for letter, size in zip(side, shape(operand), strict=True)
    )


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


RULES = (_einsum_is_product,)
