"""Make stateful: attention over the sequence becomes attention over a cache, so that runs can be split.

The sequence-axis analysis proves first that nothing else mixes positions.
"""

import dataclasses
import operator

import torch
from torch import fx

from autoconvert import ops
from autoconvert.analysis.invariants import ATTENTION_CACHED, NO_SCORES, NOTHING_OUTSIDE, POSITIONS_BOUND, SUMS_CARRIED
from autoconvert.analysis.sequence_axis import check_sequence_axis
from autoconvert.errors import Refused
from autoconvert.ir.editing import emit, finish, replace
from autoconvert.ir.nodes import named_arguments
from autoconvert.ir.program import Program
from autoconvert.ir.state import State
from autoconvert.passes.materialize_positions import INPUT_POS
from autoconvert.rewrite.passes import Pass

MASK = "mask"


def insert_kv_cache(program: Program) -> Program:
    """Adds `mask` float32 [1, 1, s, context] and two caches per attention as inputs, and the caches as outputs.

    Layouts are the runtime's: keys [1, groups, context, width], values [1, groups, width, context].

    Raises:
        Refused: an operation mixes positions and no block covers it.
    """
    graph, context = program.graph.graph, program.context
    assert context is not None, "positions are bound before states are made"
    check_sequence_axis(graph)
    attentions = graph.find_nodes(op="call_function", target=ops.attention)
    if not attentions and not graph.find_nodes(op="call_module"):
        raise Refused(
            "No attention and no recurrence was recognised in this model, so there is no state to keep.",
            hint="A decoder without any block that looks back is not covered.",
        )
    mask = _mask(graph, context)
    results: dict[str, fx.Node] = {}
    states: list[State] = []
    for index, attention in enumerate(attentions):
        pair = _states(attention, index, context)
        results |= _over_cache(graph, attention, pair, mask)
        states.extend(pair)
    output = next(iter(reversed(graph.nodes)))
    output.args = ({**output.args[0], **results},)
    return dataclasses.replace(program, graph=finish(program.graph), states=tuple(states))


def _states(attention: fx.Node, index: int, context: int) -> tuple[State, State]:
    key, value = attention.args[1].meta["val"], attention.args[2].meta["val"]  # type: ignore[union-attr]
    _, groups, _, width = key.shape
    value_width = value.shape[-1]
    return (
        State(f"kv_cache_k_{index}", (1, groups, context, width), "key", sequence_axis=2),
        State(f"kv_cache_v_{index}", (1, groups, value_width, context), "value", sequence_axis=3),
    )


def _over_cache(graph: fx.Graph, attention: fx.Node, states: tuple[State, State], mask: fx.Node) -> dict[str, fx.Node]:
    input_pos = graph.find_nodes(op="placeholder", target=INPUT_POS)[0]
    caches = [_placeholder(graph, state.name, state.shape, state.dtype, like=mask) for state in states]
    given = named_arguments(attention)
    operands = [given.pop(name) for name in ("query", "key", "value")]
    attributes = [value for name, value in given.items() if name not in ("mask", "causal")]
    with graph.inserting_before(attention):
        call = emit(graph, ops.cached_attention, *operands, *caches, input_pos, mask, *attributes, like=attention)
        parts = [emit(graph, operator.getitem, call, index, like=attention) for index in range(3)]
    replace(attention, parts[0])
    return {state.name: part for state, part in zip(states, parts[1:], strict=True)}


def _mask(graph: fx.Graph, context: int) -> fx.Node:
    input_pos = graph.find_nodes(op="placeholder", target=INPUT_POS)[0]
    length = input_pos.meta["val"].shape[0]
    return _placeholder(graph, MASK, (1, 1, length, context), torch.float32, like=input_pos)


def _placeholder(
    graph: fx.Graph, name: str, shape: tuple[int | torch.SymInt, ...], dtype: torch.dtype, like: fx.Node
) -> fx.Node:
    """A new input, after those that are there and before the weights."""
    last = [n for n in graph.find_nodes(op="placeholder") if not n.meta.get("is_weight")][-1]
    with graph.inserting_after(last):
        node = graph.placeholder(name)
    with like.meta["val"].fake_mode:
        node.meta["val"] = torch.empty(shape, dtype=dtype)
    return node


PASS = Pass(
    "insert-kv-cache",
    "Attention over the sequence becomes attention over a cache, so that runs can be split.",
    lambda program, _: insert_kv_cache(program),
    requires=(NO_SCORES, NOTHING_OUTSIDE, POSITIONS_BOUND, SUMS_CARRIED),
    ensures=(ATTENTION_CACHED,),
    changes_ports=True,
)
