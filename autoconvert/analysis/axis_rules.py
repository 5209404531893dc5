"""Which operations treat the entries of one axis one by one: a rule for each, and none for what is not known.

A rule is asked about one symbol; others may live in the graph. A value has one axis of the symbol at most.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from sympy import Symbol
from torch import fx

from autoconvert import ops
from autoconvert.analysis.op_traits import (
    FILLS,
    REARRANGEMENTS,
    REPETITIONS,
    ROTATIONS,
    SELECTIONS,
    SQUEEZES,
    UNTAGGED_POINTWISE,
)
from autoconvert.ir.nodes import named_arguments, shape

aten = torch.ops.aten

# A rule gives the reason why the operation is not proven for a symbol, or None.
Rule = Callable[[fx.Node, Symbol], str | None]

MIXES = "it combines values of several positions"


def axes(node: fx.Node, symbol: Symbol | None) -> list[int]:
    """The axes, from the end, whose size depends on the symbol."""
    sizes = shape(node)
    return [axis - len(sizes) for axis, size in enumerate(sizes) if depends_on(size, symbol)]


def depends_on(size: Any, symbol: Symbol | None) -> bool:
    """Whether a size, or a number computed from sizes, is one that the symbol decides."""
    is_known_later = isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool)
    return is_known_later and symbol in size.node.expr.free_symbols


def argument(node: fx.Node, name: str) -> Any:
    """An argument by its name in the operation's schema, its default where it is not given.

    Raises KeyError where the operation has no such argument.
    """
    return named_arguments(node)[name]


def axis_argument(node: fx.Node) -> int:
    """The axis in `dim`, from the end, of an operation whose result has the axes of its operands."""
    along = int(argument(node, "dim"))
    return along if along < 0 else along - len(shape(node))


def _axes_argument(node: fx.Node, rank: int, name: str = "dim") -> Iterable[int]:
    """The axes in an argument, from the end; none given means all, as reductions have it."""
    over = argument(node, name)
    given = over if isinstance(over, list | tuple) else [] if over is None else [over]
    return [axis - rank if axis >= 0 else axis for axis in given] or range(-rank, 0)


def _operand(node: fx.Node, index: int = 0) -> fx.Node:
    operand = node.args[index]
    assert isinstance(operand, fx.Node)
    return operand


def _others(node: fx.Node, count: int = 1) -> list[fx.Node]:
    """The operands after the first `count` arguments; one of those may be among them once more."""
    found: list[fx.Node] = []
    fx.map_arg((node.args[count:], node.kwargs), found.append)
    return found


def _any_has(nodes: Iterable[fx.Node], symbol: Symbol) -> bool:
    return any(axes(node, symbol) for node in nodes)


def pointwise(node: fx.Node, symbol: Symbol) -> str | None:
    """Broadcasting aligns axes from the end: the followed one must be the same one everywhere."""
    return None if all(axes(n, symbol) in ([], axes(node, symbol)) for n in node.all_input_nodes) else MIXES


def _along_another(node: fx.Node, symbol: Symbol) -> str | None:
    """The operation works along the axes in `dim`, which must not be the followed one."""
    return _works_along(node, symbol, "dim")


def _along_others(node: fx.Node, symbol: Symbol) -> str | None:
    """The same with axes in `dims`."""
    return _works_along(node, symbol, "dims")


def _works_along(node: fx.Node, symbol: Symbol, name: str) -> str | None:
    source = _operand(node)
    over = _axes_argument(node, len(shape(source)), name)
    return MIXES if set(over) & set(axes(source, symbol)) or _any_has(_others(node), symbol) else None


def _last_axis(node: fx.Node, symbol: Symbol) -> str | None:
    """Works on vectors along the last axis of the first operand, with weights that have no sequence."""
    return _on_last_axes(node, symbol, 1)


def _on_last_axes(node: fx.Node, symbol: Symbol, count: int) -> str | None:
    is_seen = any(axis >= -count for axis in axes(_operand(node), symbol))
    return MIXES if is_seen or _any_has(_others(node), symbol) else None


def _native_norm(node: fx.Node, symbol: Symbol) -> str | None:
    return _on_last_axes(node, symbol, len(argument(node, "normalized_shape")))


def _matrices(node: fx.Node, symbol: Symbol) -> str | None:
    """Works on the last two axes of its only operand."""
    return _on_last_axes(node, symbol, 2)


def _padded(node: fx.Node, symbol: Symbol) -> str | None:
    """`pad` has a pair for each axis, the last one first; the followed axis must get nothing."""
    pairs = argument(node, "pad")
    grown = {-1 - index // 2 for index, size in enumerate(pairs) if size != 0}
    return MIXES if grown & set(axes(_operand(node), symbol)) else None


def _first_axis_is_batch(node: fx.Node, symbol: Symbol) -> str | None:
    is_batch = axes(_operand(node), symbol) == [-len(shape(_operand(node)))]
    return MIXES if not is_batch or _any_has(_others(node), symbol) else None


def _convolution(node: fx.Node, symbol: Symbol) -> str | None:
    """Along the followed axis the kernel must see one entry; the batch is free."""
    x, weight = _operand(node, 0), _operand(node, 1)
    spatial = len(shape(weight)) - 2
    (axis,) = axes(x, symbol) or (0,)
    if _any_has(_others(node), symbol) or axis == 0:
        return MIXES
    if axis == -spatial - 2:
        return None
    if axis < -spatial:
        return MIXES

    def along(name: str) -> Any:
        given = argument(node, name)
        sizes = given if isinstance(given, list | tuple) else [given]
        return sizes[axis] if len(sizes) == spatial else sizes[0]

    sees_one = shape(weight)[axis] == 1 and along("stride") == 1 and along("padding") == 0
    return None if sees_one else MIXES


def _picked(node: fx.Node, symbol: Symbol) -> str | None:
    """Entries along `dim`: of a table without the axis by what has it, or along another axis by what has not."""
    source, by = _operand(node), argument(node, "index")
    over = _axes_argument(node, len(shape(source)))
    crossed = bool(axes(source, symbol)) and (bool(axes(by, symbol)) or bool(set(over) & set(axes(source, symbol))))
    return MIXES if crossed else None


def _looked_up(node: fx.Node, symbol: Symbol) -> str | None:
    return MIXES if axes(_operand(node), symbol) else None


def _indexed(node: fx.Node, symbol: Symbol) -> str | None:
    """x[i, j, …]: of a table without the axis by indices that have it, or along other axes by fixed ones."""
    source, indices = _operand(node), argument(node, "indices")
    given = [n for n in indices if isinstance(n, fx.Node)]
    if not axes(source, symbol):
        followed = {axis for n in given for axis in axes(n, symbol)}
        return None if len(followed) == 1 else MIXES
    (axis,) = axes(source, symbol)
    at = axis + len(shape(source))
    is_cut = at < len(indices) and indices[at] is not None
    return MIXES if is_cut or _any_has(given, symbol) else None


def _gathered(node: fx.Node, symbol: Symbol) -> str | None:
    """Along `dim` of the same position, or of a table without the axis by an index that has it along `dim`."""
    source, by = _operand(node), argument(node, "index")
    (over,) = _axes_argument(node, len(shape(source)))
    if not axes(source, symbol):
        return None if axes(by, symbol) == [over] else MIXES
    return None if axes(by, symbol) == axes(source, symbol) != [over] else MIXES


def _scattered(node: fx.Node, symbol: Symbol) -> str | None:
    """Into the same position along another axis; every tensor has the followed axis at the same place."""
    source = _operand(node)
    (over,) = _axes_argument(node, len(shape(source)))
    same = all(axes(n, symbol) == axes(source, symbol) for n in node.all_input_nodes)
    return None if same and axes(source, symbol) != [over] else MIXES


def _select_scattered(node: fx.Node, symbol: Symbol) -> str | None:
    """As the slice, with an axis less in what is written."""
    source, part = _operand(node), argument(node, "src")
    (over,) = _axes_argument(node, len(shape(source)))
    expected = [axis if axis > over else axis + 1 for axis in axes(source, symbol)]
    return None if axes(source, symbol) not in ([], [over]) and axes(part, symbol) == expected else MIXES


def _matrix_product(node: fx.Node, symbol: Symbol) -> str | None:
    """Not along the axis that is summed over; in the batch of both, or on one side alone."""
    (left, right) = (_operand(node, 0), _operand(node, 1))
    over_left, over_right = -1, -min(2, len(shape(right)))
    if over_left in axes(left, symbol) or over_right in axes(right, symbol):
        return MIXES
    if axes(left, symbol) and axes(right, symbol):
        return None if axes(left, symbol) == axes(right, symbol) and axes(left, symbol)[0] < -2 else MIXES
    return None


def _moved(node: fx.Node, symbol: Symbol) -> str | None:
    """Axes move, appear or go, and carry what lies along the followed one with them."""
    return None


def _squeezed(node: fx.Node, symbol: Symbol) -> str | None:
    """Of the followed axis this would be a chunk of one position."""
    return _works_along(node, symbol, "dim")


def _complex_from_pairs(node: fx.Node, symbol: Symbol) -> str | None:
    return MIXES if -1 in axes(_operand(node), symbol) else None


def _concatenation(node: fx.Node, symbol: Symbol) -> str | None:
    same = all(axes(part, symbol) == axes(node, symbol) for part in node.all_input_nodes)
    over = _axes_argument(node, len(shape(node)))
    return None if same and not set(over) & set(axes(node, symbol)) else MIXES


def _rows(node: fx.Node, symbol: Symbol) -> str | None:
    """Row by row of x and of what picks the weights."""
    x, weight, expert = (axes(_operand(node, index), symbol) for index in range(3))
    return None if x == [-2] and expert == [-1] and not weight else MIXES


def _stack(node: fx.Node, symbol: Symbol) -> str | None:
    first, *others = node.all_input_nodes
    return None if all(axes(part, symbol) == axes(first, symbol) for part in others) else MIXES


def _one_hot(node: fx.Node, symbol: Symbol) -> str | None:
    return None if argument(node, "num_classes") > 0 else MIXES


def _attention(node: fx.Node, symbol: Symbol) -> str | None:
    """Causal over the followed axis, separate for each entry of the batch, or of each query over keys without it."""
    parts, others = [axes(_operand(node, index), symbol) for index in range(3)], _others(node, 3)
    if all(part == [-4] for part in parts):
        return None if all(axes(other, symbol) in ([], [-4]) for other in others) else MIXES
    if parts == [[-2], [], []] and not argument(node, "causal"):
        return None if all(axes(other, symbol) in ([], [-2]) for other in others) else MIXES
    if any(part != [-2] for part in parts) or not shape(node)[-2].node.expr.is_Symbol:  # type: ignore[union-attr]
        return "query, key and value are not [batch, heads, sequence, width]"
    # A bias has the positions of the queries as its rows; its columns are the context.
    aligned = all(axes(other, symbol) in ([], [-2]) for other in others)
    proven = argument(node, "causal") and argument(node, "mask") is None and aligned
    return None if proven else "its mask is not proven causal"


def _rotary(node: fx.Node, symbol: Symbol) -> str | None:
    x = axes(_operand(node), symbol)
    return None if -1 not in x and all(axes(operand, symbol) in (x, []) for operand in node.all_input_nodes) else MIXES


# Where a length may stand: it only says how long the result is, which the result's shape shows.
SIZE_ARGUMENTS: dict[torch._ops.OpOverload, str] = {
    aten.reshape.default: "shape",
    aten.expand.default: "size",
    aten.repeat.default: "repeats",
    aten.repeat_interleave.self_int: "output_size",
    aten.new_zeros.default: "size",
    aten.new_ones.default: "size",
    aten.new_full.default: "size",
    aten.new_empty.default: "size",
}

# What is filled in sizes that are given.
FILLED = FILLS & SIZE_ARGUMENTS.keys()

# From values without the followed axis these make one along which every position holds the same.
REPEATING = {aten.expand.default, aten.repeat.default}

_ALONG_ANOTHER = (
    aten._softmax.default,
    aten.all.dim,
    aten.amax.default,
    aten.amin.default,
    aten.any.dim,
    aten.argmax.default,
    aten.argmin.default,
    aten.argsort.default,
    aten.cumprod.default,
    aten.cumsum.default,
    aten.glu.default,
    aten.linalg_vector_norm.default,
    aten.log_softmax.int,
    aten.logsumexp.default,
    aten.max.dim,
    aten.mean.dim,
    aten.min.dim,
    aten.norm.ScalarOpt_dim,
    aten.prod.dim_int,
    aten.softmax.int,
    aten.sort.default,
    aten.sort.stable,
    aten.std.correction,
    aten.sum.dim_IntList,
    aten.topk.default,
    aten.var.correction,
)

RULES: dict[torch._ops.OpOverload, Rule] = {
    **dict.fromkeys(UNTAGGED_POINTWISE | FILLS, pointwise),
    **dict.fromkeys(SELECTIONS.union(_ALONG_ANOTHER), _along_another),
    **dict.fromkeys(ROTATIONS, _along_others),
    **dict.fromkeys(REARRANGEMENTS | REPETITIONS | {aten.view_as_real.default}, _moved),
    aten.expand.default: pointwise,
    **dict.fromkeys((aten.tril.default, aten.triu.default), _matrices),
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default), _convolution),
    **dict.fromkeys((aten.bmm.default, aten.matmul.default), _matrix_product),
    **dict.fromkeys((aten.scatter.src, aten.scatter.value, aten.scatter_add.default), _scattered),
    **dict.fromkeys(SQUEEZES, _squeezed),
    aten.linear.default: _last_axis,
    aten.layer_norm.default: _native_norm,
    aten.rms_norm.default: _native_norm,
    **dict.fromkeys((aten.constant_pad_nd.default, aten.pad.default), _padded),
    aten.group_norm.default: _first_axis_is_batch,
    aten.embedding.default: _looked_up,
    aten.index_select.default: _picked,
    aten.index.Tensor: _indexed,
    aten.gather.default: _gathered,
    aten.slice_scatter.default: _scattered,
    aten.select_scatter.default: _select_scattered,
    aten.cat.default: _concatenation,
    aten.stack.default: _stack,
    aten.one_hot.default: _one_hot,
    aten.view_as_complex.default: _complex_from_pairs,
    ops.rms_norm: _last_axis,
    ops.layer_norm: _last_axis,
    ops.gated_feed_forward: _last_axis,
    ops.expert_linear: _rows,
    ops.rotary: _rotary,
    ops.attention: _attention,
}
