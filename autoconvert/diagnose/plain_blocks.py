"""Plain blocks: parts of a graph that look like building blocks, and that no pattern has matched.

What a block looks like is said by the data flow alone: statistics of the last axis that scale what they were taken
from are a norm, products of two projections are a gated feed-forward, products with tables of positions are a rotary
embedding, and what compares all positions with all is attention.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.binding_times import Time
from autoconvert.analysis.op_traits import CONTRACTIONS, SELECTIONS, is_lookup, is_movement, is_pointwise
from autoconvert.analysis.token_flow import TokenFlow
from autoconvert.ir.nodes import is_symbolic, named_arguments, shape
from autoconvert.ir.program import Program

aten = torch.ops.aten

_ROOTS = {
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.std.correction,
    aten.std_mean.dim,
    aten.std_mean.correction,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
}
_POWERS = {aten.pow.Tensor_Scalar}
# Products of channels where the kernel has one entry.
_CONVOLUTIONS = {aten.conv1d.default, aten.convolution.default}
_JOINS = {aten.mul.Tensor, aten.div.Tensor, aten.glu.default, aten.maximum.default, aten.minimum.default}
_CHOICES = {aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim}
_SCALES = {aten.mul.Tensor, aten.add.Tensor, aten.div.Tensor, aten.sub.Tensor}
_AXES = {aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims}


@dataclass(frozen=True)
class PlainBlock:
    """A part of a graph with one result: its `nodes` in order, and what they take that tokens or weights decide."""

    kind: str
    nodes: tuple[fx.Node, ...]
    output: fx.Node

    @property
    def inputs(self) -> list[fx.Node]:
        """The values that come from elsewhere, in the order of their use; lengths are none."""
        inside = set(self.nodes)
        found = (n for node in self.nodes for n in node.all_input_nodes if n not in inside and _is_tensor(n))
        return list(dict.fromkeys(found))


def plain_blocks(program: Program) -> list[PlainBlock]:
    """The blocks in a program, in its order, each operation in one of them at most; a larger one goes first."""
    flow = TokenFlow(program)
    finders = (_attentions, _feed_forwards, _rotaries, _norms)
    found = [block for finder in finders for block in finder(flow)]
    taken: set[fx.Node] = set()
    kept = []
    for block in sorted(found, key=lambda block: -len(block.nodes)):
        if taken.isdisjoint(block.nodes):
            taken.update(block.nodes)
            kept.append(block)
    return sorted(kept, key=lambda block: flow.order[block.nodes[0]])


def block_at(program: Program, node: fx.Node) -> PlainBlock:
    """The smallest part around `node` whose result and inputs have as many entries for each position as tokens.

    Masks around what tokens decide are inputs, and so are histories.
    """
    graph, flow = program.graph.graph, TokenFlow(program)
    lengths = {str(size) for size in _token_sizes(program)}
    slots = _slots(graph)

    def is_odd(each: fx.Node) -> bool:
        is_known = each in flow.histories or (flow.is_token(node) and not flow.is_token(each))
        is_wide = _is_each_slot(each, slots) or any(is_symbolic(n) and str(n) not in lengths for n in shape(each))
        return is_wide and not is_known

    inside = {node}
    pending = [node]
    while pending:
        current = pending.pop()
        near = [n for n in current.all_input_nodes if is_odd(n) and n.op == "call_function"]
        near += [user for user in current.users if is_odd(current) and user.op == "call_function"]
        for each in near:
            if each not in inside and _is_tensor(each):
                inside.add(each)
                pending.append(each)
    ordered = tuple(n for n in graph.nodes if n in inside)
    return PlainBlock("unknown", ordered, ordered[-1])


def _norms(flow: TokenFlow) -> Iterator[PlainBlock]:
    """Statistics of the last axis, with a root in them or a weight behind, that scale what they were taken from."""
    narrow: set[fx.Node] = set()
    scaled: dict[fx.Node, list[fx.Node]] = {}
    for node in flow.nodes:
        operands = flow.operands(node)
        if _is_statistic(flow, node):
            narrow.add(node)
        elif operands and (is_pointwise(node.target) or is_movement(node.target)):
            inside = [operand for operand in operands if operand in narrow]
            if len(inside) == len(operands):
                narrow.add(node)
            elif inside and is_pointwise(node.target):
                scaled[node] = flow.before(node, narrow)
    for node, statistics in scaled.items():
        entry = flow.entry(node)
        while entry is not None and entry in scaled:
            entry = flow.entry(entry)
        nodes = flow.between(entry, node) if entry is not None else []
        output = _with_weights(flow, node)
        has_root = any(map(_is_root, statistics))
        if nodes and all(_is_simple(n) or _is_statistic(flow, n) for n in nodes) and (has_root or output is not node):
            yield PlainBlock("norm", (*nodes, *_way(node, output)), output)


def _with_weights(flow: TokenFlow, node: fx.Node) -> fx.Node:
    """What comes of `node` by weights for each channel; numbers may be between."""
    weighted = node
    while len(node.users) == 1:
        (user,) = flow.users(node) or [node]
        others = [n for n in user.all_input_nodes if n is not node]
        are_weights = all(flow.times[n] is Time.WEIGHT and shape(n)[-1:] == shape(user)[-1:] for n in others)
        if user is node or user.target not in _SCALES or not are_weights:
            break
        node = user
        weighted = node if others else weighted
    return weighted


def _way(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    found = []
    while first is not last:
        (first,) = first.users
        found.append(first)
    return found


def _feed_forwards(flow: TokenFlow) -> Iterator[PlainBlock]:
    """A product of two projections of one value, or of two parts of one projection, projected again.

    The larger of them is one as well, which is called maxout (Goodfellow et al., arXiv:1302.4389).
    """
    for output in flow.nodes:
        if _is_projection(flow, output):
            inner, projections = _inner(flow, output)
            if _is_gated(flow, inner, projections):
                nodes = sorted({*inner, *projections, output}, key=flow.order.__getitem__)
                yield PlainBlock("feed_forward", tuple(nodes), output)


def _inner(flow: TokenFlow, output: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """What `output` projects, entry by entry, back to the values that are not computed so."""
    inner: dict[fx.Node, None] = {}
    ends: dict[fx.Node, None] = {}
    pending = flow.operands(output)
    while pending:
        node = pending.pop()
        if node in inner:
            continue
        if _is_simple(node) or node.target is aten.glu.default or _is_choice(node):
            inner[node] = None
            pending.extend(flow.operands(node))
        else:
            ends[node] = None
    return list(inner), list(ends)


def _is_gated(flow: TokenFlow, inner: Iterable[fx.Node], projections: Sequence[fx.Node]) -> bool:
    if not all(_is_projection(flow, node) for node in projections):
        return False
    sources = {operand for node in projections for operand in flow.operands(node)}
    is_joined = any(n.target is aten.glu.default or (n.target in _JOINS and len(flow.operands(n)) > 1) for n in inner)
    are_two = len(projections) > 1 or any(n.target in SELECTIONS or n.target is aten.glu.default for n in inner)
    return len(sources) == 1 and ((is_joined and are_two) or any(map(_is_choice, inner)))


def _is_choice(node: fx.Node) -> bool:
    """The largest or the smallest of some channels of a position."""
    if node.target not in _CHOICES:
        return False
    whole = shape(node.all_input_nodes[0])
    return not any(is_symbolic(whole[axis]) for axis in _over(node) or range(-len(whole), 0))


def _is_projection(flow: TokenFlow, node: fx.Node) -> bool:
    """A product of channels with a matrix that tokens do not decide."""
    if len(flow.operands(node)) != 1:
        return False
    if node.target in _CONVOLUTIONS:
        kernel = node.args[1]
        return isinstance(kernel, fx.Node) and shape(kernel)[-1] == 1
    return node.target in CONTRACTIONS


def _rotaries(flow: TokenFlow) -> Iterator[PlainBlock]:
    """Two products or more with tables of positions, of parts of one value, put together."""
    found: dict[fx.Node, fx.Node] = {}
    for node in flow.nodes:
        if node.target is aten.matmul.default and any(_is_table(flow, n) for n in node.all_input_nodes):
            moved = _with_moves(flow, node)
            yield PlainBlock("rotary", moved, moved[-1])
        if _is_turn(flow, node) and (region := _joined(flow, node)) is not None:
            found[region[1]] = region[0]
    for output, entry in found.items():
        nodes = flow.between(entry, output)
        if sum(_is_turn(flow, n) for n in nodes) > 1:
            yield PlainBlock("rotary", tuple(nodes), output)


def _with_moves(flow: TokenFlow, node: fx.Node) -> tuple[fx.Node, ...]:
    """A product with what puts its axes in place just before and after."""
    nodes = [node]
    while len(flow.operands(nodes[0])) == 1 and flow.operands(nodes[0])[0].target in _AXES:
        nodes.insert(0, flow.operands(nodes[0])[0])
    while len(nodes[-1].users) == 1 and flow.users(nodes[-1]) and flow.users(nodes[-1])[0].target in _AXES:
        nodes.append(flow.users(nodes[-1])[0])
    return tuple(nodes)


def _is_turn(flow: TokenFlow, node: fx.Node) -> bool:
    return node.target is aten.mul.Tensor and any(_is_table(flow, n) for n in node.all_input_nodes)


def _is_table(flow: TokenFlow, node: fx.Node) -> bool:
    """A row of numbers for each position."""
    value = node.meta.get("val")
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return is_float and flow.times[node] is Time.POSITION and len(axes(node, flow.symbol)) == 1


def _joined(flow: TokenFlow, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The value that all operands come from, and the last one before something else than their parts is needed."""
    region = None
    while True:
        operands = flow.operands(node)
        if len(operands) > 1:
            entry = flow.entry(node)
            if entry is None or not all(_is_placed(flow, n) for n in flow.between(entry, node)):
                return region
            if region is not None and entry is not region[0]:
                return region
            region = (entry, node)
        elif region is not None and not is_movement(node.target):
            return region
        users = [user for user in flow.users(node) if _is_placed(flow, user)]
        if len(users) != 1 or len(flow.users(node)) != 1:
            return region
        (node,) = users


def _is_placed(flow: TokenFlow, node: fx.Node) -> bool:
    """Entry by entry, or with entries moved by a lookup or a product of what neither tokens nor weights decide."""
    others = [n for n in node.all_input_nodes if not flow.is_token(n)]
    are_known = all(flow.times[n] in (Time.CONSTANT, Time.POSITION) for n in others)
    is_moved = node.target in CONTRACTIONS or is_lookup(node.target)
    return _is_simple(node) or (is_moved and are_known and len(flow.operands(node)) == 1)


def _attentions(flow: TokenFlow) -> Iterator[PlainBlock]:
    """What has a value for every two positions, up to where each position has one of its own again.

    In a single step, one of the two is a slot of the history. A bias that depends on no token is an input, which layers
    may share.
    """
    slots = _slots(flow.graph)
    wide = {node for node in flow.nodes if len(axes(node, flow.symbol)) > 1 or _is_each_slot(node, slots)}
    pairs = (wide & flow.of_tokens) - flow.histories
    links: nx.Graph[fx.Node] = nx.Graph()
    links.add_nodes_from(pairs)
    links.add_edges_from((n, node) for node in pairs for n in flow.operands(node) if n in pairs)
    for part in nx.connected_components(links):
        ends = {user for node in part for user in flow.users(node)} - part
        inside = _united(flow, part | ends | _on_the_way(flow, part, ends))
        nodes = tuple(sorted(inside, key=flow.order.__getitem__))
        yield PlainBlock("attention", nodes, nodes[-1])


def _on_the_way(flow: TokenFlow, part: set[fx.Node], ends: set[fx.Node]) -> set[fx.Node]:
    """What is computed from `ends` and goes back into `part` or them, as the sums that scores are divided by."""
    last = max(flow.order[node] for node in part | ends)
    after = set(ends)
    for node in flow.nodes:
        if flow.order[node] < last and node not in part and any(operand in after for operand in flow.operands(node)):
            after.add(node)
    found: set[fx.Node] = set()
    for node in reversed(flow.nodes):
        if node in after and any(user in part | ends | found for user in flow.users(node)):
            found.add(node)
    return found


def _united(flow: TokenFlow, nodes: set[fx.Node]) -> set[fx.Node]:
    """With what is computed of several results, as a sum that divides at the end, up to where there is one."""
    grown = set(nodes)
    for node in flow.nodes:
        results = {n for n in grown if grown.isdisjoint(flow.users(n))}
        if len(results) == 1:
            return grown
        if _is_simple(node) and not results.isdisjoint(flow.operands(node)):
            grown.add(node)
    return nodes


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _is_simple(node: fx.Node) -> bool:
    return is_pointwise(node.target) or is_movement(node.target)


def _is_statistic(flow: TokenFlow, node: fx.Node) -> bool:
    """Numbers about the last axis alone, which has gone or is one: sums, products with itself, with constants."""
    if _is_simple(node) or any(flow.times[n] is Time.WEIGHT for n in node.all_input_nodes):
        return False
    if _over(node) not in (None, {-1}):
        return False
    whole = shape(flow.operands(node)[0]) if flow.operands(node) else ()
    value = node.meta["val"]
    results = value if isinstance(value, list | tuple) else [value]
    return whole[-1:] != (1,) and all(
        isinstance(result, Tensor) and _sizes(result.shape) == _sizes(whole[:-1]) for result in results
    )


def _over(node: fx.Node) -> set[int] | None:
    """The axes, from the end, that an operation says it works along; None where it says none."""
    axes = named_arguments(node).get("dim")
    rank = len(shape(node.all_input_nodes[0]))
    given = axes if isinstance(axes, list | tuple) else [axes]
    return {axis % rank - rank for axis in given if isinstance(axis, int)} or None


def _sizes(sizes: Iterable[Any]) -> list[str]:
    """The sizes that are not one."""
    return [str(size) for size in sizes if size != 1]


def _is_root(node: fx.Node) -> bool:
    if node.target in _POWERS:
        exponent = node.args[1]
        return isinstance(exponent, float) and not exponent.is_integer()
    return node.target in _ROOTS


def _slots(graph: fx.Graph) -> set[int]:
    """How many positions a single step looks back on: a number that stands for nothing else in its shapes."""
    histories = graph.find_nodes(op="call_function", target=ops.history)
    return {size for history in histories if isinstance(size := shape(history)[-2], int)}


def _is_each_slot(node: fx.Node, slots: set[int]) -> bool:
    return any(isinstance(size, int) and size in slots for size in shape(node))


def _token_sizes(program: Program) -> list[Any]:
    """The lengths of the inputs that are no weights."""
    placeholders = program.graph.graph.find_nodes(op="placeholder")
    inputs = (node for node in placeholders if node.target not in program.weights)
    return [size for node in inputs for size in shape(node) if is_symbolic(size)]
