"""Faults of the stateful program: what a pass that is wrong would leave."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.ir.editing import emit, set_arguments
from autoconvert.ir.nodes import named_arguments, named_results
from autoconvert.ir.program import Program
from autoconvert.ir.weight import Weight

aten = torch.ops.aten


@dataclass(frozen=True)
class Fault:
    """A fault in the stateful program of a `model`: `inject` gives the program with it, the original is unchanged."""

    name: str
    inject: Callable[[Program], Program]
    model: str = "llama"


def _edit(program: Program, change: Callable[[fx.GraphModule], None]) -> Program:
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    copy = fx.GraphModule(program.graph, graph)
    change(copy)
    copy.graph.eliminate_dead_code()
    copy.recompile()
    return program.with_graph(copy)


def _first(graph: fx.GraphModule, target: Callable[..., object]) -> fx.Node:
    return graph.graph.find_nodes(op="call_function", target=target)[0]


def _sign(graph: fx.GraphModule) -> None:
    """The rotation turns the other way."""
    rotary = _first(graph, ops.rotary)
    sine = rotary.args[2]
    assert isinstance(sine, fx.Node)
    with graph.graph.inserting_before(rotary):
        set_arguments(rotary, sin=emit(graph.graph, aten.neg.default, sine, like=sine))


def _scale(graph: fx.GraphModule) -> None:
    """Scores are a tenth too large."""
    attention = _first(graph, ops.cached_attention)
    set_arguments(attention, scale=named_arguments(attention)["scale"] * 1.1)


def _softcap(graph: fx.GraphModule) -> None:
    """Scores are not capped."""
    set_arguments(_first(graph, ops.cached_attention), softcap=0.0)


def _window(graph: fx.GraphModule) -> None:
    """A window is one position too long."""
    attention = next(
        node
        for node in graph.graph.find_nodes(op="call_function", target=ops.cached_attention)
        if named_arguments(node)["window"]
    )
    set_arguments(attention, window=named_arguments(attention)["window"] + 1)


def _only_beyond(graph: fx.GraphModule) -> None:
    """A layer that sees everything has a window, which is almost as long as the context."""
    attention = _first(graph, ops.cached_attention)
    capacity = named_arguments(attention)["mask"].meta["val"].shape[-1]
    set_arguments(attention, window=capacity - 2)


def _causal(graph: fx.GraphModule) -> None:
    """Each position sees the one after it."""
    attention = _first(graph, ops.cached_attention)
    mask = named_arguments(attention)["mask"]
    with graph.graph.inserting_before(attention):
        later = emit(graph.graph, aten.roll.default, mask, [1], [-1], like=attention)
        set_arguments(attention, mask=emit(graph.graph, aten.maximum.default, mask, later, like=attention))


def _pairing(graph: fx.GraphModule) -> None:
    """The rotation pairs neighbours instead of halves."""
    set_arguments(_first(graph, ops.rotary), interleaved=True)


def _heads(graph: fx.GraphModule) -> None:
    """Heads share keys in another order."""
    attention = _first(graph, ops.cached_attention)
    with graph.graph.inserting_before(attention):
        flipped = emit(graph.graph, aten.flip.default, named_arguments(attention)["key"], [1], like=attention)
        set_arguments(attention, key=flipped)


def _epsilon(graph: fx.GraphModule) -> None:
    """A norm adds ten times as much to its variance."""
    norm = _first(graph, ops.rms_norm)
    set_arguments(norm, eps=named_arguments(norm)["eps"] * 10)


def _activation(graph: fx.GraphModule) -> None:
    """A gate has another activation of almost the same form."""
    set_arguments(_first(graph, ops.gated_feed_forward), activation="gelu")


def _bias(graph: fx.GraphModule) -> None:
    """A projection has lost its bias."""
    linears = graph.graph.find_nodes(op="call_function", target=aten.linear.default)
    set_arguments(next(node for node in linears if named_arguments(node).get("bias") is not None), bias=None)


def _tables(change: Callable[[Tensor], Tensor]) -> Callable[[fx.GraphModule], None]:
    """What positions look up is another row."""

    def edit(graph: fx.GraphModule) -> None:
        name = next(name for name, table in graph.named_buffers() if name.startswith("table_") and table.ndim == 2)
        graph.register_buffer(name, change(getattr(graph, name)))

    return edit


def _mask(graph: fx.GraphModule) -> None:
    """One layer sees only the last three positions."""
    attention = _first(graph, ops.cached_attention)
    set_arguments(attention, window=3)


def _state_left_as(change: Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]) -> Callable[[fx.GraphModule], None]:
    """The first layer's values are handed on as `change` makes them of the state and the positions."""

    def edit(graph: fx.GraphModule) -> None:
        output = next(iter(reversed(graph.graph.nodes)))
        results = named_results(graph.graph)
        (positions,) = (node for node in graph.graph.find_nodes(op="placeholder") if node.target == "input_pos")
        with graph.graph.inserting_before(output):
            changed = change(graph.graph, results["kv_cache_v_0"], positions)
        output.args = ({**results, "kv_cache_v_0": changed},)

    return edit


def _a_slot_late(graph: fx.Graph, state: fx.Node, _: fx.Node) -> fx.Node:
    """Every slot lies one further than where it is looked for."""
    return emit(graph, aten.roll.default, state, [1], [-1], like=state)


def _lost_to_padding(graph: fx.Graph, state: fx.Node, positions: fx.Node) -> fx.Node:
    """Where a chunk ends in padding, which stands at position 0, slots shrink."""
    value = functools.partial(emit, graph, like=state)
    last = value(aten.slice.Tensor, positions, 0, -1)
    behind = value(aten.sub.Tensor, value(aten.amax.default, positions, [0], True), last)
    padded = value(aten._to_copy.default, value(aten.clamp.default, behind, 0, 1), dtype=torch.float32)
    kept = value(aten.add.Tensor, value(aten.mul.Tensor, padded, -0.5), 1.0)
    return value(aten.mul.Tensor, state, kept)


def _swapped_caches(graph: fx.GraphModule) -> None:
    """Two layers' keys are stored under each other's name."""
    output = next(iter(reversed(graph.graph.nodes)))
    results = dict(output.args[0])
    results["kv_cache_k_0"], results["kv_cache_k_1"] = results["kv_cache_k_1"], results["kv_cache_k_0"]
    output.args = (results,)


def _dropped_term(graph: fx.GraphModule) -> None:
    """A residual connection is missing."""
    addition = _first(graph, aten.add.Tensor)
    left = addition.args[0]
    assert isinstance(left, fx.Node)
    addition.replace_all_uses_with(left)


def _wrong_tie(program: Program) -> Program:
    """The head reads the embedding though it has weights of its own, or a shifted one where they are the same."""
    nodes = program.graph.graph
    embedding = next(
        n.args[0]
        for n in nodes.find_nodes(op="call_function", target=aten.embedding.default)
        if n.args[0].target in program.weights
    )
    head = nodes.find_nodes(op="call_function", target=aten.linear.default)[-1].args[1]
    table = program.weights[str(embedding.target)]
    if head is not embedding:
        return _with_weight(program, dataclasses.replace(program.weights[str(head.target)], sources=table.sources))
    shifted = Weight("shifted_head", table.shape, table.sources, _program(lambda x: x.roll(1, 0), table))

    def untie(graph: fx.GraphModule) -> None:
        linear = graph.graph.find_nodes(op="call_function", target=aten.linear.default)[-1]
        with graph.graph.inserting_after(graph.graph.find_nodes(op="placeholder")[-1]):
            placeholder = graph.graph.placeholder(shifted.name)
        placeholder.meta = dict(linear.args[1].meta)
        set_arguments(linear, weight=placeholder)

    return _with_weight(_edit(program, untie), shifted)


def _weight_changed(change: Callable[[Tensor], Tensor]) -> Callable[[Program], Program]:
    """A square projection is stored as another matrix."""

    def inject(program: Program) -> Program:
        square = next(w for w in program.weights.values() if len(w.shape) == 2 and w.shape[0] == w.shape[1])
        return _with_weight(program, dataclasses.replace(square, program=_program(change, square)))

    return inject


def _wrong_weight(program: Program) -> Program:
    """Two layers read each other's matrix."""
    by_shape: dict[tuple[int, ...], Weight] = {}
    for weight in program.weights.values():
        if len(weight.shape) != 2:
            continue
        other = by_shape.setdefault(weight.shape, weight)
        if other is not weight and _leaf(other) == _leaf(weight):
            first, second = (
                dataclasses.replace(other, sources=weight.sources),
                dataclasses.replace(weight, sources=other.sources),
            )
            return _with_weight(_with_weight(program, first), second)
    raise ValueError("the model has no two layers of one shape")


def _leaf(weight: Weight) -> str:
    return ".".join(weight.sources[0].split(".")[-2:])


def _program(function: Callable[[torch.Tensor], torch.Tensor], weight: Weight) -> fx.GraphModule:
    graph = fx.Graph()
    source = graph.placeholder("source")
    graph.output(graph.call_function(function, (source,)))
    return fx.GraphModule({}, graph)


def _with_weight(program: Program, weight: Weight) -> Program:
    return dataclasses.replace(program, weights={**program.weights, weight.name: weight})


def _one_sign(matrix: Tensor) -> Tensor:
    signs = torch.ones(len(matrix), 1)
    signs[5] = -1
    return matrix * signs


def _edited(name: str, change: Callable[[fx.GraphModule], None], model: str = "llama") -> Fault:
    return Fault(name, lambda program: _edit(program, change), model)


FAULTS: tuple[Fault, ...] = (
    _edited("sign", _sign),
    _edited("pairing", _pairing),
    _edited("scale", _scale),
    _edited("softcap", _softcap, "gemma2"),
    _edited("window", _window, "gemma3"),
    _edited("mask", _mask),
    _edited("mask at the end", _only_beyond),
    _edited("causal mask", _causal),
    _edited("heads", _heads),
    _edited("position", _tables(lambda table: table.roll(1, 0))),
    _edited("later positions", _tables(lambda table: torch.cat((table[:21], table[20:-1])))),
    _edited("last positions", _tables(lambda table: torch.cat((table[:-2], table[-3:-1])))),
    _edited("swapped caches", _swapped_caches),
    _edited("slot", _state_left_as(_a_slot_late)),
    _edited("padding", _state_left_as(_lost_to_padding)),
    _edited("dropped term", _dropped_term),
    _edited("epsilon", _epsilon),
    _edited("activation", _activation),
    _edited("bias", _bias, "llama-biased"),
    Fault("tie", _wrong_tie),
    Fault("no tie", _wrong_tie, "llama-tied"),
    Fault("transpose", _weight_changed(lambda matrix: matrix.t())),
    Fault("row", _weight_changed(lambda matrix: matrix.roll(1, 0))),
    Fault("one sign", _weight_changed(_one_sign)),
    Fault("wrong weight", _wrong_weight),
)
