"""Every rule held to its claim: an accepted operation gives chunk by chunk, joined, what it gives for the whole."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autoconvert import ops
from autoconvert.analysis.axis_rules import RULES
from autoconvert.analysis.layouts import Layout
from autoconvert.analysis.sequence_axis import check_separate
from autoconvert.errors import Refused
from autoconvert.ir.editing import traced
from autoconvert.ir.nodes import is_symbolic, shape
from autoconvert.passes.canonicalize import canonicalize

aten = torch.ops.aten

LENGTH, CHUNKS = 6, (2, 1, 3)
# Static axes are shorter than the sequence, so that none is taken for it.
N = 4


@dataclass(frozen=True)
class Operand:
    """Sizes, and which of the axes has `multiple` entries for each position, if any."""

    sizes: tuple[int, ...]
    is_index: bool = False
    axis: int | None = None
    multiple: int = 1

    def shape(self, length: Any) -> tuple[Any, ...]:
        return tuple(self.multiple * length if at == self.axis else size for at, size in enumerate(self.sizes))

    def fake(self, length: int | torch.SymInt) -> Tensor:
        return torch.empty(self.shape(length), dtype=torch.int64 if self.is_index else torch.float32)

    def random(self, generator: torch.Generator) -> Tensor:
        if self.is_index:
            return torch.randint(0, N, self.shape(LENGTH), generator=generator)
        return torch.randn(self.shape(LENGTH), generator=generator)


def x(*sizes: int) -> Operand:
    return Operand(sizes)


def ids(*sizes: int) -> Operand:
    return Operand(sizes, is_index=True)


Function = Callable[..., Any]
Case = tuple[torch._ops.OpOverload, Function, Sequence[Operand]]
X, XX, CROSSED = [x(N, N, N)], [x(N, N, N)] * 2, [x(1, N, N), x(N, 1, N)]
WEIGHT = x(N, N)


def along(operation: Any, *arguments: Any, **options: Any) -> Case:
    """An operation on one value, along its axis 1."""
    return operation, lambda a: operation(a, *arguments, **options), X


CASES: tuple[Case, ...] = (
    *(along(getattr(aten, name).dim, 1) for name in ("all", "any", "max", "min")),
    *(along(getattr(aten, name).default, 1) for name in ("argmax", "argmin", "cumsum", "cumprod", "glu")),
    *(along(getattr(aten, name).default, 1) for name in ("argsort", "sort")),
    *(along(getattr(aten, name).default, [1]) for name in ("amax", "amin", "logsumexp", "flip")),
    *(along(getattr(aten, name).int, 1) for name in ("softmax", "log_softmax", "unbind")),
    *(along(getattr(aten, name).correction, [1]) for name in ("std", "var")),
    *(along(getattr(aten, name).default) for name in ("triu", "tril")),
    along(aten._softmax.default, 1, False),
    along(aten.prod.dim_int, 1),
    along(aten.mean.dim, [1]),
    along(aten.sum.dim_IntList, [1]),
    along(aten.norm.ScalarOpt_dim, 2, [1]),
    along(aten.linalg_vector_norm.default, 2, [1]),
    along(aten.sort.stable, stable=True, dim=1),
    along(aten.topk.default, 2, 1),
    along(aten.select.int, 1, 2),
    along(aten.slice.Tensor, 1, 1, 3),
    along(aten.chunk.default, 2, 1),
    along(aten.split.Tensor, 3, 1),
    along(aten.split_with_sizes.default, [1, 3], 1),
    along(aten.roll.default, [1], [1]),
    along(aten.permute.default, [2, 0, 1]),
    along(aten.transpose.int, 0, 2),
    along(aten.unsqueeze.default, 1),
    along(aten._to_copy.default, dtype=torch.float64),
    *(along(getattr(aten, name).default) for name in ("zeros_like", "ones_like", "hardswish", "log_sigmoid", "tanh")),
    along(aten.full_like.default, 3.0),
    (aten.squeeze.dim, lambda a: aten.squeeze.dim(a, 1), [x(N, 1, N)]),
    (aten.squeeze.dims, lambda a: aten.squeeze.dims(a, [0, 1]), [x(1, 1, N, N)]),
    along(aten.constant_pad_nd.default, [0, 0, 1, 0]),
    along(aten.pad.default, [0, 0, 1, 0]),
    (aten.one_hot.default, lambda a: aten.one_hot.default(a, N), [ids(N, N)]),
    (aten.expand.default, lambda a: aten.expand.default(a, [3, -1, -1]), [x(N, N)]),
    (aten.view_as_complex.default, lambda a: aten.view_as_complex.default(a), [x(N, N, 2)]),
    (aten.view_as_real.default, lambda a: aten.view_as_real.default(aten.view_as_complex.default(a)), [x(N, N, 2)]),
    (aten.real.default, lambda a: aten.real.default(aten.view_as_complex.default(a)), [x(N, N, 2)]),
    (aten.imag.default, lambda a: aten.imag.default(aten.view_as_complex.default(a)), [x(N, N, 2)]),
    (aten.complex.default, lambda a, b: aten.view_as_real.default(aten.complex.default(a, b)), CROSSED),
    (aten.polar.default, lambda a, b: aten.view_as_real.default(aten.polar.default(a, b)), CROSSED),
    (aten.__and__.Tensor, lambda a, b: aten.__and__.Tensor(a > 0, b > 0), CROSSED),
    (aten.__or__.Tensor, lambda a, b: aten.__or__.Tensor(a > 0, b > 0), CROSSED),
    (aten.copy.default, aten.copy.default, XX),
    (aten.floor_divide.default, aten.floor_divide.default, CROSSED),
    (aten.rsub.Tensor, aten.rsub.Tensor, CROSSED),
    (aten.masked_fill.Tensor, lambda a, b: aten.masked_fill.Tensor(a, b > 0, torch.tensor(2.0)), CROSSED),
    (aten.where.Scalar, lambda a: aten.where.Scalar(a > 0, 1.0, 2.0), X),
    (aten.where.ScalarOther, lambda a, b: aten.where.ScalarOther(a > 0, b, 1.0), CROSSED),
    (aten.where.ScalarSelf, lambda a, b: aten.where.ScalarSelf(a > 0, 1.0, b), CROSSED),
    (aten.cat.default, lambda a, b: aten.cat.default([a, b], 1), XX),
    (aten.stack.default, lambda a, b: aten.stack.default([a, b], 1), [x(N, N)] * 2),
    (aten.bmm.default, aten.bmm.default, XX),
    (aten.matmul.default, aten.matmul.default, XX),
    (aten.matmul.default, aten.matmul.default, [x(N, N, N), x(N, N)]),
    (aten.matmul.default, aten.matmul.default, [x(N, N), x(N)]),
    (aten.matmul.default, aten.matmul.default, [x(N), x(N, N, N)]),
    (aten.linear.default, aten.linear.default, [x(N, N, N), WEIGHT, x(N)]),
    (aten.layer_norm.default, lambda a, w: aten.layer_norm.default(a, [N, N], w), [x(N, N, N), WEIGHT]),
    (aten.rms_norm.default, lambda a, w: aten.rms_norm.default(a, [N], w), [x(N, N, N), x(N)]),
    (aten.group_norm.default, lambda a, w: aten.group_norm.default(a, 2, w), [x(N, N, N), x(N)]),
    (aten.conv1d.default, aten.conv1d.default, [x(N, N, N), x(N, N, 1)]),
    (aten.conv1d.default, aten.conv1d.default, [x(N, N, N), x(N, N, 2), x(N)]),
    (aten.conv1d.default, lambda a, w: aten.conv1d.default(a, w, None, [2]), [x(N, N, N), x(N, N, 1)]),
    (aten.conv1d.default, lambda a, w: aten.conv1d.default(a, w, None, [1], [1]), [x(N, N, N), x(N, N, 1)]),
    (aten.conv2d.default, aten.conv2d.default, [x(N, N, N, N), x(N, N, 1, 3)]),
    (aten.embedding.default, aten.embedding.default, [WEIGHT, ids(N, N)]),
    (aten.index_select.default, lambda a, i: aten.index_select.default(a, 1, i), [x(N, N, N), ids(N)]),
    (aten.index.Tensor, lambda a, i: aten.index.Tensor(a, [None, i]), [x(N, N, N), ids(N)]),
    (aten.index.Tensor, lambda a, i: aten.index.Tensor(a, [i]), [x(N, N, N), ids(N, N)]),
    (aten.index.Tensor, lambda a, i, j: aten.index.Tensor(a, [i, None, j]), [x(N, N, N), ids(N, N), ids(N)]),
    (aten.gather.default, lambda a, i: aten.gather.default(a, 1, i), [x(N, N, N), ids(N, N, N)]),
    (aten.scatter.value, lambda a, i: aten.scatter.value(a, 1, i, 2.0), [x(N, N, N), ids(N, 1, N)]),
    (aten.scatter.src, lambda a, i, b: aten.scatter.src(a, 1, i, b), [x(N, N, N), ids(N, 1, N), x(N, N, N)]),
    (aten.scatter_add.default, lambda a, i, b: aten.scatter_add.default(a, 1, i, b), [x(N, N), ids(N, N), x(N, N)]),
    (aten.slice_scatter.default, lambda a, b: aten.slice_scatter.default(a, b, 1, 0, 2), [x(N, N, N), x(N, 2, N)]),
    (aten.select_scatter.default, lambda a, b: aten.select_scatter.default(a, b, 1, 0), [x(N, N, N), x(N, N)]),
    (ops.rms_norm, lambda a, w: ops.rms_norm(a, w, 1e-5), [x(N, N, N), x(N)]),
    (ops.layer_norm, lambda a, w, b: ops.layer_norm(a, w, b, 1e-5), [x(N, N, N), x(N), x(N)]),
    (ops.expert_linear, lambda a, w, e: ops.expert_linear(a, w, e, 3), [x(N, N), x(3 * N, N), ids(N)]),
    (ops.rotary, ops.rotary, [x(N, N, N, N), x(N, N), x(N, N, N)]),
    (
        ops.gated_feed_forward,
        lambda a, g, u, d: ops.gated_feed_forward(a, g, u, d, None, None, None, "silu"),
        [x(N, N, N), WEIGHT, WEIGHT, WEIGHT],
    ),
    (ops.attention, lambda q, k, v: ops.attention(q, k, v, None, 0.5, False, 0), [x(N, 2, N, N)] * 3),
)
# What has no operand to be cut, and what moves the axis into another one, has tests of its own below.
ELSEWHERE = {
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.reshape.default,
}


# With these sizes none of the calls that run mixes anything.
ONE_BY_ONE = {
    aten._to_copy.default,
    aten.copy.default,
    aten.expand.default,
    aten.full_like.default,
    aten.hardswish.default,
    aten.layer_norm.default,
    aten.log_sigmoid.default,
    aten.one_hot.default,
    aten.ones_like.default,
    aten.permute.default,
    aten.rms_norm.default,
    aten.split_with_sizes.default,
    aten.stack.default,
    aten.tanh.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view_as_complex.default,
    aten.view_as_real.default,
    aten.real.default,
    aten.imag.default,
    aten.where.Scalar,
    aten.zeros_like.default,
}


def test_every_rule_has_a_case() -> None:
    assert {operation for operation, *_ in CASES} | ELSEWHERE >= set(RULES)


def markings(operands: Sequence[Operand]) -> Iterator[tuple[Operand, ...]]:
    """Every way in which some of the operands have the axis, with one entry for each position or two."""
    for multiple in (1, 2):
        choices = [[o, *(replace(o, axis=axis, multiple=multiple) for axis in range(len(o.sizes)))] for o in operands]
        yield from (chosen for chosen in itertools.product(*choices) if any(o.axis is not None for o in chosen))


def graph_of(function: Function, operands: Sequence[Operand]) -> fx.GraphModule:
    """The function with a symbolic length; its placeholders are the operands."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    length = mode.from_tensor(torch.empty(LENGTH), static_shapes=False).shape[0]
    with mode:
        values = {f"x{index}": operand.fake(length) for index, operand in enumerate(operands)}
    return traced(lambda **bound: function(*bound.values()), values)


def proven(graph: fx.Graph) -> list[tuple[int, Layout]] | None:
    """Where the axis is in each result, and how it lies; None where that is not proven."""
    sizes = [size for node in graph.find_nodes(op="placeholder") for size in shape(node) if is_symbolic(size)]
    symbols = {symbol for size in sizes for symbol in size.node.expr.free_symbols}
    if not symbols:
        # The function holds for the one length that it was traced with.
        return None
    try:
        layouts = check_separate(graph, symbols.pop())
    except Refused:
        return None
    results = graph.output_node().all_input_nodes
    return [(next(at for at, size in enumerate(shape(r)) if is_symbolic(size)), layouts[r]) for r in results]


def cut(value: Tensor, axis: int | None, layout: Layout, chunk: slice) -> Tensor:
    """What belongs to the positions of a chunk."""
    if axis is None:
        return value
    before, after = value.shape[:axis], value.shape[axis + 1 :]
    parts = value.reshape(*before, layout.outer, LENGTH, layout.inner, *after)
    return parts[(slice(None),) * (axis + 1) + (chunk,)].reshape(*before, -1, *after)


def chunks() -> Iterator[slice]:
    ends = list(itertools.accumulate(CHUNKS))
    return (slice(end - size, end) for end, size in zip(ends, CHUNKS, strict=True))


def results_of(function: Function, values: Sequence[Tensor]) -> list[Tensor]:
    results = function(*values)
    return list(results) if isinstance(results, tuple | list) else [results]


def chunks_give_the_whole(function: Function, operands: Sequence[Operand], places: list[tuple[int, Layout]]) -> bool:
    generator = torch.Generator().manual_seed(0)
    values = [operand.random(generator) for operand in operands]
    whole = results_of(function, values)
    for chunk in chunks():
        parts = [
            cut(value, operand.axis, Layout(inner=operand.multiple), chunk)
            for value, operand in zip(values, operands, strict=True)
        ]
        for result, all_of_it, (axis, layout) in zip(results_of(function, parts), whole, places, strict=True):
            expected = cut(all_of_it, axis, layout, chunk)
            if result.shape != expected.shape or not torch.allclose(result, expected, atol=1e-5, equal_nan=True):
                return False
    return True


def runs(function: Function, operands: Sequence[Operand]) -> bool:
    try:
        function(*(operand.random(torch.Generator()) for operand in operands))
    except (RuntimeError, IndexError):
        return False
    return True


@pytest.mark.parametrize(("operation", "function", "operands"), CASES, ids=[str(case[0]) for case in CASES])
def test_what_a_rule_accepts_can_be_cut(
    operation: torch._ops.OpOverload, function: Function, operands: Sequence[Operand]
) -> None:
    accepted = refused = 0
    for marked in markings(operands):
        if not runs(function, marked):
            continue
        graph = graph_of(function, marked).graph
        assert graph.find_nodes(op="call_function", target=operation)
        places = proven(graph)
        if places is None:
            refused += 1
        else:
            accepted += 1
            assert chunks_give_the_whole(function, marked, places), f"{operation} on {marked}"
    assert accepted
    assert refused or operation in ONE_BY_ONE


MOVED: dict[str, tuple[Function, Operand, Layout]] = {
    "positions into pairs": (lambda a: a.repeat_interleave(3, 0), x(N, N), Layout(inner=3)),
    "pairs into positions": (lambda a: a.repeat_interleave(3, 0).view(-1, 3, N).sum(1), x(N, N), Layout()),
    "pairs of a flat value": (lambda a: a.repeat_interleave(2), x(N, N), Layout(inner=2 * N)),
    "another axis repeated": (lambda a: a.repeat_interleave(2, 1), x(N, N), Layout()),
    "flattened": (lambda a: a.reshape(-1), x(N, N), Layout(inner=N)),
    "flattened with what is before": (lambda a: a.transpose(0, 1).reshape(-1, 1), x(N, N), Layout(outer=N)),
    "flattened on both sides": (lambda a: a.permute(1, 0, 2).reshape(-1), x(N, 2, 3), Layout(outer=2, inner=3)),
    "the whole again and again": (lambda a: a.repeat(2, 1), x(N, N), Layout(outer=2)),
    "the whole again and back": (lambda a: a.repeat(2, 1).view(2, -1, N).sum(0), x(N, N), Layout()),
    "copies of pairs": (lambda a: a.repeat_interleave(2, 0).repeat(3, 1), x(N, N), Layout(outer=3, inner=2)),
    "split in two": (lambda a: a.view(-1, 2, 2), x(N, N), Layout()),
    "zeros of its length": (lambda a: a + a.new_zeros(a.shape[0], 1), x(N, N), Layout()),
    "numbers of its length": (lambda a: a.new_full((a.shape[0], 2), 3.0), x(N, N), Layout()),
    "pairs of ones": (lambda a: a.flatten() * a.new_ones(a.shape[0] * N), x(N, N), Layout(inner=N)),
    "written over": (lambda a: aten.copy.default(a.new_empty(a.shape), a), x(N, N), Layout()),
    "in a buffer like it": (lambda a: aten.copy.default(torch.empty_like(a), a), x(N, N), Layout()),
    "a row for each position": (lambda a: a + torch.ones(1, N).expand(a.shape[0], N), x(N, N), Layout()),
    "rows for each position": (
        lambda a: a.repeat_interleave(2, 0) + torch.eye(2, N).repeat(a.shape[0], 1),
        x(N, N),
        Layout(inner=2),
    ),
}
MIXED: dict[str, Function] = {
    "halves of the sequence": lambda a: a.repeat(2, 1).view(-1, 2, N),
    "pairs as copies": lambda a: a.repeat_interleave(2, 0).view(2, -1, N),
    "pairs with copies": lambda a: a.repeat_interleave(2, 0) + a.repeat(2, 1),
    "a batch of the width": lambda a: a.view(2, -1, N),
    "the width in front": lambda a: a.reshape(N, -1),
    "the length as content": lambda a: a + a.new_full((1,), a.shape[0]),
    "as many repetitions": lambda a: a[:1].sum() + a.new_zeros(1, N).repeat_interleave(a.shape[0], 0) + a,
    "a sum of what is repeated": lambda a: a + torch.ones(1, N).expand(a.shape[0], N).sum(0),
}


@pytest.mark.parametrize("name", MOVED)
def test_the_axis_is_followed_through(name: str) -> None:
    function, operand, layout = MOVED[name]
    operand = replace(operand, axis=0)
    places = proven(canonicalize(graph_of(function, [operand])).graph)
    assert places is not None
    assert [place[1] for place in places] == [layout]
    assert chunks_give_the_whole(function, [operand], places)


@pytest.mark.parametrize("name", MIXED)
def test_positions_that_meet_on_the_way_are_refused(name: str) -> None:
    operand = replace(x(N, N), axis=0)
    assert proven(canonicalize(graph_of(MIXED[name], [operand])).graph) is None
