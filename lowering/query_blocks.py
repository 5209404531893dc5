"""Attention over a cache in blocks of queries, each over the keys that it may attend to and no others.

As it is traced, every query meets every key: the scores of a text are [groups, queries, keys], and the mask hides half
of them, or with a window nearly all. Here a text is taken in blocks. The scores of one take a part of the memory, and
keys behind its last query, or before its first window, are not multiplied. What is left out was hidden: the
exponential of its score is 0.

All blocks have as many queries, so that none is empty however short a text is: where they do not fill them, two blocks
share a query, and it is computed twice, the same each time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.ir.interface import Role
from autoconvert.ir.program import HISTORY, LENGTH
from autoconvert.lowering.cached_attentions import KEYS, QUERIES, CachedAttention, CachedAttentions
from autoconvert.lowering.flatbuffer import signatures_by_subgraph
from autoconvert.lowering.known_sizes import Sizes
from autoconvert.lowering.open_lengths import Axes, Length, OpenModel
from autoconvert.lowering.subgraph import OPEN, Subgraph

_BLOCKS = 8
# What a mask with a window is made by, which would be as large as all queries and keys.
_POINTWISE = frozenset({"SELECT_V2", "GREATER_EQUAL"})


def in_query_blocks(opened: OpenModel, ports: Mapping[Role, str]) -> Any:
    """The `ModelT`, its attentions in blocks where a block of them can be computed alone.

    `ports` are the names of inputs. A single query is one block: nothing changes for it without a window.
    """
    signatures = signatures_by_subgraph(opened.model)
    for index, (subgraph, axes) in enumerate(zip(opened.model.subgraphs, opened.axes, strict=True)):
        if index in signatures:
            inputs = {port.name.decode(): int(port.tensorIndex) for port in signatures[index].inputs}
            positions, mask = (inputs.get(ports[role], -1) for role in (Role.INPUT_POS, Role.MASK))
            if positions >= 0 and mask >= 0:
                _Rewriting(Subgraph(opened.model, subgraph), axes, positions, mask).run()
    return opened.model


@dataclass(frozen=True)
class _Block:
    """Which queries and which keys belong together: int32 [how many], told by their tensors; all of them for None."""

    queries: int | None
    keys: int | None

    def parts(self, axes: Axes) -> dict[int, int]:
        """What of each axis of a tensor belongs to the block, where that is not all."""
        named = {LENGTH: self.queries, HISTORY: self.keys}
        told = {at: named[axis.name] for at, axis in enumerate(axes) if isinstance(axis, Length)}
        return {at: part for at, part in told.items() if part is not None}


@dataclass(frozen=True)
class _Queries:
    """A block of queries, `count` from `begin` to `end`, and how many `keys` the cache has up to there; scalars."""

    begin: int
    end: int
    count: int
    keys: int


class _Rewriting:
    """Of the graph with the inputs `positions` int32 [queries] and `mask` [1, 1, queries, keys]."""

    def __init__(self, graph: Subgraph, axes: Sequence[Axes], positions: int, mask: int) -> None:
        self._graph, self._axes, self._positions, self._mask = graph, list(axes), positions, mask
        self._makers = graph.makers
        self._operators: list[Any] = []
        self._blocks: dict[int | None, list[_Block]] = {}
        self._cut: dict[tuple[int, _Block], int] = {}
        self._shapes: dict[tuple[int, ...], int] = {}
        self._repeats: dict[tuple[int, int], int] = {}

    def run(self) -> None:
        attentions = CachedAttentions(self._graph, self._axes, self._positions, self._mask)
        found = [each for each in attentions if self._is_to_be_cut(each)]
        ends = {id(each.operators[-1]): each for each in found}
        inside = {id(operator) for each in found for operator in each.operators}
        for operator in self._graph.operators:
            if id(operator) in ends:
                self._write(ends[id(operator)])
            elif self._graph.kind(operator) == "CONCATENATION" and self._repeats_queries(operator):
                self._repeated(operator, _Block(None, None))
                self._operators[-1].outputs = operator.outputs
            elif id(operator) not in inside:
                self._operators.append(operator)
        self._graph.subgraph.operators = self._sizes.operators + self._operators
        self._graph.drop_unread()

    @property
    def _has_one_query(self) -> bool:
        return QUERIES not in self._axes[self._positions]

    def _is_to_be_cut(self, attention: CachedAttention) -> bool:
        has_blocks = not self._has_one_query or attention.window is not None
        return has_blocks and all(map(self._may_be_cut, attention.operands))

    def _is_plain(self, tensor: int) -> bool:
        """Whether its axes are queries and keys, each at most once, and sizes."""
        lengths = [axis for axis in self._axes[tensor] if isinstance(axis, Length)]
        return len(set(lengths)) == len(lengths) and set(lengths) <= {QUERIES, KEYS}

    def _may_be_cut(self, tensor: int) -> bool:
        """Whether the part of a tensor that belongs to a block can be made without the rest."""
        if OPEN in self._axes[tensor]:
            return False
        maker: Any = self._makers.get(tensor)
        match maker and self._graph.kind(maker):
            case "RESHAPE" if not self._is_plain(tensor):
                return self._keeps_queries_innermost(maker)
            case "CONCATENATION" if not self._is_plain(tensor):
                return self._repeats_queries(maker) and self._may_be_cut(int(maker.inputs[0]))
            case kind:
                return self._is_plain(tensor) and (kind not in _POINTWISE or all(map(self._may_be_cut, maker.inputs)))

    def _keeps_queries_innermost(self, reshape: Any) -> bool:
        """Whether RESHAPE makes [repeats × queries] of [.., repeats, queries] and nothing else of lengths."""
        source, result = int(reshape.inputs[0]), int(reshape.outputs[0])
        places = [[at for at, axis in enumerate(self._axes[t]) if isinstance(axis, Length)] for t in (source, result)]
        if [len(each) for each in places] != [1, 1] or self._axes[source][places[0][0]] != QUERIES:
            return False
        behind = [prod(self._graph.signature(t)[at[0] + 1 :]) for t, at in zip((source, result), places, strict=True)]
        return behind[0] == behind[1]

    def _repeats_queries(self, concatenation: Any) -> bool:
        """Whether CONCATENATION makes [.., repeats × queries, ..] of the same [.., queries, ..] and nothing else."""
        source, axis = int(concatenation.inputs[0]), concatenation.builtinOptions.axis
        return len(set(concatenation.inputs)) == 1 and self._is_plain(source) and self._axes[source][axis] == QUERIES

    def _write(self, attention: CachedAttention) -> None:
        """Appends the operators of an attention, block by block, with the same result."""
        blocks = self._blocks_for(attention.window)
        cut = [{tensor: self._part(tensor, block) for tensor in attention.operands} for block in blocks]
        results = [self._of_block(attention, parts) for parts in cut]
        last = attention.operators[-1]
        if self._has_one_query:
            self._operators[-1].outputs = last.outputs
        else:
            self._join(results, attention.repeats, int(last.outputs[0]))

    def _of_block(self, attention: CachedAttention, parts: Mapping[int, int]) -> int:
        done: dict[int, int] = {}
        for operator in attention.operators:
            inputs = [done[int(i)] if int(i) in done else parts[int(i)] for i in operator.inputs]
            done[int(operator.outputs[0])] = self._again(operator, inputs)
        return done[int(attention.operators[-1].outputs[0])]

    def _again(self, operator: Any, inputs: Sequence[int]) -> int:
        """Appends the same operation of other tensors; gives its result."""
        result = int(operator.outputs[0])
        described = self._graph.subgraph.tensors[result]
        output = self._graph.add_tensor(self._graph.signature(result), described.type, described.name)
        copy = schema.OperatorT(**vars(operator))
        copy.inputs, copy.outputs = list(inputs), [output]
        self._operators.append(copy)
        return output

    def _part(self, tensor: int, block: _Block) -> int:
        """What of a tensor belongs to a block, made once for all who read it."""
        parts = block.parts(self._axes[tensor])
        if not parts:
            return tensor
        maker: Any = self._makers.get(tensor)
        kind = maker and self._graph.kind(maker)
        if (tensor, block) not in self._cut:
            if kind == "CONCATENATION" and not self._is_plain(tensor):
                self._cut[tensor, block] = self._repeated(maker, block)
            elif kind in _POINTWISE or not self._is_plain(tensor):
                self._cut[tensor, block] = self._again(maker, [self._part(int(i), block) for i in maker.inputs])
            else:
                self._cut[tensor, block] = self._gathered(tensor, parts)
        return self._cut[tensor, block]

    def _gathered(self, tensor: int, parts: Mapping[int, int]) -> int:
        shape = self._graph.signature(tensor)
        for axis, part in parts.items():
            tensor = self._add("GATHER", [tensor, part], shape, _gather(axis))
        return tensor

    def _repeated(self, concatenation: Any, block: _Block) -> int:
        """Some queries, all of them as often as `concatenation` repeats them.

        GATHER does it: from the second call on with other lengths, XNNPACK may leave out a part of a concatenation
        whose operands and result other kernels share with it (its copy, once set up in place, never runs again).
        """
        part, repeats = self._part(int(concatenation.inputs[0]), block), len(concatenation.inputs)
        axis, shape = concatenation.builtinOptions.axis, self._graph.signature(int(concatenation.outputs[0]))
        rows = self._rows(self._length if block.queries is None else self._queries[0].count, repeats)
        return self._add("GATHER", [part, rows], shape, _gather(axis))

    def _rows(self, count: int, repeats: int) -> int:
        """The numbers of `count` queries, `repeats` times."""
        if (count, repeats) not in self._repeats:
            numbers = self._sizes.numbers(self._sizes.number(0), count)
            self._repeats[count, repeats] = self._sizes.joined([numbers] * repeats)
        return self._repeats[count, repeats]

    def _join(self, results: Sequence[int], repeats: int, output: int) -> None:
        """Appends what makes of the results of all blocks [.., groups, repeats × queries, width] that of the whole."""
        *outer, groups, _, width = self._graph.signature(output)
        shape = (*outer, groups * repeats, OPEN, width)
        if repeats > 1:
            results = [self._reshaped(result, shape) for result in results]
        axis = len(shape) - 2
        joined = self._add("CONCATENATION", results, shape, schema.ConcatenationOptionsT(axis=axis))
        ordered = self._add("GATHER", [joined, self._order], shape, _gather(axis))
        if repeats > 1:
            ordered = self._reshaped(ordered, self._graph.signature(output))
        self._operators[-1].outputs = [output]

    def _reshaped(self, tensor: int, shape: Sequence[int]) -> int:
        told = tuple(shape)
        if told not in self._shapes:
            self._shapes[told] = self._graph.add_constant(told)
        return self._add("RESHAPE", [tensor, self._shapes[told]], told)

    def _add(self, kind: str, inputs: Sequence[int], shape: Sequence[int], options: Any = None) -> int:
        output = self._graph.add_tensor(shape, self._graph.subgraph.tensors[inputs[0]].type)
        self._operators.append(self._graph.operator(kind, inputs, output, options))
        return output

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes(self._graph)

    @cached_property
    def _length(self) -> int:
        return self._sizes.length(self._positions, 0)

    @cached_property
    def _capacity(self) -> int:
        return self._sizes.length(self._mask, len(self._axes[self._mask]) - 1)

    @cached_property
    def _queries(self) -> list[_Queries]:
        sizes = self._sizes
        length, more = self._length, sizes.plus(self._capacity, 1)
        found: list[_Queries] = []
        for number in range(1, _BLOCKS + 1):
            end = sizes.steps(sizes.number(0), sizes.times(length, number), _BLOCKS)
            count = found[0].count if found else end
            # As many queries lie behind the end, and as many keys at least: one less than this.
            behind = sizes.steps(sizes.number(-1), sizes.times(length, _BLOCKS - number), _BLOCKS)
            keys = sizes.steps(behind, more) if number < _BLOCKS else self._capacity
            found.append(_Queries(sizes.steps(count, end), end, count, keys))
        return found

    @cached_property
    def _order(self) -> int:
        """Where each query stands in the blocks, one after the other: int32 [queries]."""
        sizes, places, before = self._sizes, [], self._queries[0].begin
        for number, queries in enumerate(self._queries):
            again = sizes.steps(queries.begin, before)
            first = sizes.steps(sizes.times(queries.count, -number), again)
            places.append(sizes.numbers(first, sizes.times(queries.count, number + 1)))
            before = queries.end
        return sizes.joined(places)

    def _blocks_for(self, window: int | None) -> list[_Block]:
        """All keys of a block, or those that the window of its first query reaches."""
        if window not in self._blocks:
            self._blocks[window] = list(self._make_blocks(window))
        return self._blocks[window]

    def _make_blocks(self, window: int | None) -> Iterator[_Block]:
        sizes = self._sizes
        if self._has_one_query:
            one = _Queries(sizes.number(0), sizes.number(1), sizes.number(1), self._capacity)
            yield _Block(None, self._keys(one, window))
            return
        for queries in self._queries:
            yield _Block(sizes.numbers(queries.begin, queries.end), self._keys(queries, window))

    def _keys(self, queries: _Queries, window: int | None) -> int | None:
        if window is not None:
            return self._near(queries, window)
        is_all = queries.keys == self._capacity
        return None if is_all else self._sizes.numbers(self._sizes.number(0), queries.keys)

    def _near(self, queries: _Queries, window: int) -> int:
        """The keys that the windows of some queries reach, and no more than there are."""
        sizes, reach = self._sizes, window - 1
        count = sizes.least(queries.keys, sizes.plus(queries.count, reach))
        first = sizes.later("SUB", sizes.later("ADD", self._first_position, queries.begin), sizes.number(reach))
        first = sizes.later("MAXIMUM", first, sizes.number(0))
        first = sizes.later("MINIMUM", first, sizes.later("SUB", queries.keys, count))
        return sizes.later("ADD", sizes.numbers(sizes.number(0), count), first)

    @cached_property
    def _first_position(self) -> int:
        return self._sizes.first_of(self._positions)


def _gather(axis: int) -> Any:
    return schema.GatherOptionsT(axis=axis)
