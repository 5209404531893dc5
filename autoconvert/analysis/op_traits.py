"""What operations are: one table of their traits, that passes and analyses ask.

An operation may have several: a copy is pointwise, and a movement that moves nothing. PyTorch tags what is pointwise,
a reduction or random (aten/src/ATen/native/tags.yaml); the table adds what it does not tag.
"""

import operator
from typing import Any

import torch

aten = torch.ops.aten

# Every entry of the operand once, in another shape or another order of axes.
REARRANGEMENTS = frozenset(
    {
        aten.permute.default,
        aten.reshape.default,
        aten.transpose.int,
        aten.unsqueeze.default,
    }
)
SQUEEZES = frozenset({aten.squeeze.dim, aten.squeeze.dims})
ROTATIONS = frozenset({aten.flip.default, aten.roll.default})
# Every entry, some of them several times.
REPETITIONS = frozenset({aten.expand.default, aten.repeat.default, aten.repeat_interleave.self_int})
# Some of the entries: a part of an axis, or all its parts.
SELECTIONS = frozenset(
    {
        aten.chunk.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.unbind.int,
    }
)
# The entries of several operands.
JOINS = frozenset({aten.cat.default, aten.stack.default})
# Other ways to write those above, which canonicalization replaces.
_NON_CANONICAL = frozenset(
    {
        aten._unsafe_view.default,
        aten.alias.default,
        aten.broadcast_to.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.expand_as.default,
        aten.flatten.using_ints,
        aten.lift_fresh_copy.default,
        aten.mT.default,
        aten.narrow.default,
        aten.numpy_T.default,
        aten.split.sizes,
        aten.squeeze.default,
        aten.t.default,
        aten.unflatten.int,
        aten.view.default,
        aten.view_as.default,
    }
)
# What computes nothing, and says what holds of types and sizes.
ASSERTIONS = frozenset(
    {
        aten._assert_scalar.default,
        aten._assert_tensor_metadata.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
    }
)
_MOVEMENTS = (
    REARRANGEMENTS
    | SQUEEZES
    | ROTATIONS
    | REPETITIONS
    | SELECTIONS
    | JOINS
    | _NON_CANONICAL
    # One of several values.
    | {operator.getitem}
)

# Entries of the first operand where another one says, whose numbers are indices.
_LOOKUPS = frozenset(
    {
        aten.embedding.default,
        aten.gather.default,
        aten.index.Tensor,
        aten.index_select.default,
    }
)

# Sums of products of two operands, linear in each.
CONTRACTIONS = frozenset(
    {
        aten.addmm.default,
        aten.bmm.default,
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
    }
)

# Every entry holds the same, whatever the operand, of which they take the type and perhaps the shape.
FILLS = frozenset(
    {
        aten.empty_like.default,
        aten.full_like.default,
        aten.new_empty.default,
        aten.new_full.default,
        aten.new_ones.default,
        aten.new_zeros.default,
        aten.ones_like.default,
        aten.zeros_like.default,
    }
)

# Pointwise operations that PyTorch does not tag so.
UNTAGGED_POINTWISE = frozenset(
    {
        aten.__and__.Tensor,
        aten.__or__.Tensor,
        aten._to_copy.default,
        aten.complex.default,
        aten.copy.default,
        aten.floor_divide.default,
        aten.hardswish.default,
        aten.imag.default,
        aten.log_sigmoid.default,
        aten.masked_fill.Tensor,
        aten.polar.default,
        aten.real.default,
        aten.rsub.Tensor,
        aten.where.Scalar,
        aten.where.ScalarOther,
        aten.where.ScalarSelf,
    }
)


def is_movement(operation: Any) -> bool:
    """Whether each entry of the result is one of the entries of the first argument, wherever the rest says."""
    return operation in _MOVEMENTS


def is_lookup(operation: Any) -> bool:
    """Whether each entry of the result is one of the first operand's, where the numbers of another operand say."""
    return operation in _LOOKUPS


def is_pointwise(operation: Any) -> bool:
    """Whether each entry is computed from the entries at the same place of its operands, which are broadcast."""
    return operation in UNTAGGED_POINTWISE or _is_tagged(operation, torch.Tag.pointwise)


def is_reduction(operation: Any) -> bool:
    """Whether axes go because their entries are combined into one."""
    return _is_tagged(operation, torch.Tag.reduction)


def is_random(operation: Any) -> bool:
    """Whether chance decides the numbers."""
    return _is_tagged(operation, torch.Tag.nondeterministic_seeded)


def _is_tagged(operation: Any, tag: torch.Tag) -> bool:
    return tag in getattr(operation, "tags", ())
