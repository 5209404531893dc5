"""Ten faults that a compiler like this one could have: put into a conversion, each must fail the default check."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from autoconvert import ops
from autoconvert.ir.editing import emit, set_arguments
from autoconvert.ir.nodes import named_arguments
from autoconvert.ir.program import Program
from autoconvert.ir.weight import Weight
from autoconvert.packaging.tokenizer import TokenizerSpec

aten = torch.ops.aten


@dataclass(frozen=True)
class Fault:
    """A fault in the stateful program: `inject` gives the program with it, the original is unchanged."""

    name: str
    inject: Callable[[Program], Program]


def wrong_start_token(tokenizer: TokenizerSpec) -> TokenizerSpec:
    """The bundle says another start token than the tokenizer puts before a text, or one where it puts none."""
    return dataclasses.replace(tokenizer, start=None if tokenizer.start is not None else 0)


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


def _position(graph: fx.GraphModule) -> None:
    """A position table is off by one row."""
    name = next(name for name, table in graph.named_buffers() if name.startswith("table_") and table.ndim == 2)
    graph.register_buffer(name, getattr(graph, name).roll(1, 0))


def _mask(graph: fx.GraphModule) -> None:
    """One layer sees only the last three positions."""
    attention = _first(graph, ops.cached_attention)
    set_arguments(attention, window=3)


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


def _transposed(program: Program) -> Program:
    """A square projection is stored the other way round."""
    square = next(w for w in program.weights.values() if len(w.shape) == 2 and w.shape[0] == w.shape[1])
    return _with_weight(program, dataclasses.replace(square, program=_program(lambda x: x.t(), square)))


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


FAULTS: tuple[Fault, ...] = (
    Fault("sign", lambda program: _edit(program, _sign)),
    Fault("scale", lambda program: _edit(program, _scale)),
    Fault("position", lambda program: _edit(program, _position)),
    Fault("mask", lambda program: _edit(program, _mask)),
    Fault("swapped caches", lambda program: _edit(program, _swapped_caches)),
    Fault("tie", _wrong_tie),
    Fault("transpose", _transposed),
    Fault("dropped term", lambda program: _edit(program, _dropped_term)),
    Fault("wrong weight", _wrong_weight),
)
