"""Batch to sequence: a batch of single steps is read as the positions of one text.

Nothing in a step mixes the batch, which the sequence-axis analysis proves, so the batch axis of all that has no state
may as well be positions. Where a step looks back, it gets what lies before it: attention over the history becomes
causal attention over the sequence, and a state becomes a scan along it.
"""

import dataclasses
import operator

import torch
from sympy import Symbol
from torch import fx
from torch.fx.passes.tools_common import stable_topological_sort

from autoconvert import ops
from autoconvert.analysis.invariants import NOTHING_OUTSIDE, PROJECTIONS_HOISTED, WHOLE_TEXT
from autoconvert.analysis.masks import Mask, classify_mask
from autoconvert.analysis.recurrences import Region, find_recurrences, is_size
from autoconvert.analysis.sequence_axis import check_separate
from autoconvert.analysis.token_flow import TokenFlow
from autoconvert.errors import Refused
from autoconvert.ir.editing import emit, finish, replace
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import concrete, first_operand, is_symbolic, named_arguments, named_results, shape
from autoconvert.ir.program import LENGTH, TEXTS, Program
from autoconvert.ir.provenance import location
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.scan.scan import Scan
from autoconvert.tracing.trace import TEXT

aten = torch.ops.aten


def batch_to_sequence(program: Program, context: int) -> Program:
    """Turns the trace of a step into that of a whole text; any other program stays as it is.

    Tokens and positions become int64 [1, s] again and logits [1, s, vocabulary]; the offset and the states go.

    Raises:
        Refused: a step looks back in a way that no block covers.
    """
    graph, offset = program.graph.graph, program.find_input(Role.OFFSET)
    if offset is None:
        return program
    _check_are_floats(list(program.state_nodes().values()))
    tokens = program.input(Role.TOKENS)
    if not is_symbolic(shape(tokens)[0]):
        return _one_text_at_a_time(program)
    texts = program.symbols[TEXTS]
    # Layers share few masks.
    masks: dict[fx.Node, Mask] = {}
    for attention in graph.find_nodes(op="call_function", target=ops.attention):
        _check_looks_back(attention)
        node = named_arguments(attention)["mask"]
        if node not in masks:
            masks[node] = _mask_of_steps(program.graph, attention, offset, context)
        _attend_to_sequence(graph, attention, masks[node])
    results, before = named_results(graph), program.state_nodes()
    states = [(before[state.name], results[state.name]) for state in program.states]
    for index, region in enumerate(find_recurrences(graph, states)):
        _scan(program.graph, region, f"recurrence_{index}", texts)
    (logits,) = program.outputs
    graph.output_node().args = ({logits.name: named_results(graph)[logits.name]},)
    _sizes_of(graph, tokens)
    graph.eliminate_dead_code()
    _check_all_is_attention(program)
    for node in (offset, program.input(Role.STEPS), *before.values()):
        _drop_input(graph, node)
    _read_as_sequence(program)
    stable_topological_sort(program.graph)
    return _of_a_text(program, finish(program.graph), texts)


def _of_a_text(program: Program, graph: fx.GraphModule, length: Symbol) -> Program:
    """The program whose graph takes and gives what the trace of a whole text does."""
    (logits,) = program.outputs
    output = dataclasses.replace(logits, shape=(1, LENGTH, logits.shape[-1]))
    return dataclasses.replace(
        program, graph=graph, inputs=TEXT, outputs=(output,), states=(), symbols={LENGTH: length}, streamed=LENGTH
    )


def _one_text_at_a_time(program: Program) -> Program:
    """The whole step is one scan, from the token to the logits."""
    owner, results = program.graph, named_results(program.graph.graph)
    offset = program.input(Role.OFFSET)
    for node in owner.graph.nodes:
        if node.target is ops.history or (node is offset and node.users):
            raise Refused(f"{location(node)} looks back in a model that takes one text at a time only.")
    weights = [node for node in owner.graph.find_nodes(op="placeholder") if node.target in program.weights]
    of_text = [program.input(port.role) for port in TEXT]
    per_step = [node for node in of_text if node.users]
    states = list(program.state_nodes().values())
    logits = program.result(Role.LOGITS)
    step = _single(owner, [*states, *per_step, *weights], [logits, *(results[_name(state)] for state in states)])
    graph = fx.Graph()
    texts = {}
    steps = program.input(Role.STEPS).meta["val"]
    mode = steps.fake_mode
    for node in of_text:
        texts[node] = graph.placeholder(_name(node))
        with mode:
            texts[node].meta = {**node.meta, "val": steps.reshape(1, -1)}
    shared = [graph.node_copy(node) for node in weights]
    moving = [emit(graph, aten.reshape.default, texts[node], [-1, 1], like=node) for node in per_step]
    whole = graph_module(owner, graph)
    sizes = [tuple(state.meta["val"].shape[1:]) for state in states]
    whole.add_submodule("step", Scan(step, sizes, [1] * len(moving) + [0] * len(shared)))
    call = graph.call_module("step", (*moving, *shared))
    with mode:
        call.meta = {**logits.meta, "val": (steps.new_empty(steps.shape[0], *shape(logits)[1:], dtype=torch.float32),)}
    rows = emit(graph, operator.getitem, call, 0, like=logits)
    (port,) = program.outputs
    graph.output({port.name: emit(graph, aten.reshape.default, rows, [1, -1, shape(logits)[-1]], like=logits)})
    return _of_a_text(program, finish(whole), program.symbols[TEXTS])


def _check_are_floats(states: list[fx.Node]) -> None:
    for state in states:
        reader = next((user for user in state.users if user.op != "output" and not is_size(user)), None)
        dtype = state.meta["val"].dtype
        if reader is not None and not dtype.is_floating_point:
            raise Refused(
                f"{location(reader)} reads a state of {dtype}.", hint="A state is a tensor of floating-point numbers."
            )


def _name(node: fx.Node) -> str:
    return str(node.target)


def _check_all_is_attention(program: Program) -> None:
    for node in TokenFlow(program).looking_back:
        raise Refused(
            f"{location(node)} looks back on what was before outside of a fused attention.",
            hint="A pattern must match the attention that it belongs to.",
            at=node.name,
        )


def _check_looks_back(attention: fx.Node) -> None:
    given = named_arguments(attention)
    if not _is_history(given["key"]) or not _is_history(given["value"]) or given["mask"] is None:
        raise Refused(
            f"{location(attention)} looks back at what is not simply the keys and values of every position.",
            hint="Attention in a single step must be over a history, with a mask that hides what has not been.",
            at=attention.name,
        )


def _mask_of_steps(owner: fx.GraphModule, attention: fx.Node, offset: fx.Node, context: int) -> Mask:
    """What the masks of all steps are together, evaluated for every position."""
    node = named_arguments(attention)["mask"]
    placeholders = (n for n in _between([offset], [node]) if n.op == "placeholder" and not is_size(n))
    computed = min(placeholders, default=None)
    if computed is not None:
        raise Refused(
            f"The attention at {location(attention)} has a bias that is computed from {computed.target}.",
            hint="In a single step, a bias may depend on positions alone.",
            at=attention.name,
        )
    step = _single(owner, [offset], [node])
    with torch.no_grad():
        rows = [step(torch.tensor(position))[0][..., :context] for position in range(context)]
    mask = classify_mask(torch.cat(rows, dim=-2))
    if isinstance(mask, str):
        raise Refused(f"The attention at {location(attention)} has a mask that is {mask}.", at=attention.name)
    if mask.slopes is not None or mask.table is not None:
        message = f"The attention at {location(attention)} has a bias, and is seen in single steps only."
        raise Refused(message, at=attention.name)
    return mask


def _attend_to_sequence(graph: fx.Graph, attention: fx.Node, mask: Mask) -> None:
    """Attention [steps, heads, 1, width] over the history is attention [1, heads, steps, width] over the sequence."""
    given = named_arguments(attention)
    steps = {"query": given["query"], "key": first_operand(given["key"]), "value": first_operand(given["value"])}
    with graph.inserting_before(attention):
        along = {name: emit(graph, aten.transpose.int, node, -4, -2, like=attention) for name, node in steps.items()}
        changed = {**given, **along, "mask": None, "causal": True, "window": mask.window, "chunk_size": mask.chunk_size}
        over = emit(graph, ops.attention, *changed.values(), like=attention)
        back = emit(graph, aten.transpose.int, over, -4, -2, like=attention)
    replace(attention, back)


def _is_history(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target is ops.history


def _single(owner: fx.GraphModule, inputs: list[fx.Node], outputs: list[fx.Node]) -> fx.GraphModule:
    """What computes `outputs` from `inputs`, for a batch of one."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node | int] = {
        node: graph.placeholder(f"input_{index}") for index, node in enumerate(inputs)
    }
    for node in inputs:
        copies[node].meta = dict(node.meta)  # type: ignore[union-attr]
    needed = _between(inputs, outputs)
    for node in owner.graph.nodes:
        if node in copies or node not in needed:
            continue
        copies[node] = concrete(node.meta["val"], 1) if is_size(node) else graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    return graph_module(owner, graph)


def _between(inputs: list[fx.Node], outputs: list[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(outputs)
    while pending:
        node = pending.pop()
        if node not in found and node not in inputs:
            found.add(node)
            pending.extend([] if is_size(node) else node.all_input_nodes)
    return found


def _scan(owner: fx.GraphModule, region: Region, name: str, texts: Symbol) -> None:
    """One call of a scan in place of the region."""
    graph, inputs, outputs = owner.graph, region.inputs, region.outputs
    _prove_separate(owner, region, texts)
    step = _single(owner, [*region.before, *inputs], [*outputs, *region.after])
    rows = [_rows(node) for node in inputs]
    if not any(rows):
        raise Refused(f"{location(region.after[0])}: a state that no token changes is not covered.")
    states = [tuple(node.meta["val"].shape[1:]) for node in region.before]
    owner.add_submodule(name, Scan(step, states, rows))
    like = region.nodes[-1] if region.nodes else inputs[0]
    with graph.inserting_after(_last(graph, inputs)):
        call = graph.call_module(name, tuple(inputs))
    call.meta = {**like.meta, "val": tuple(node.meta["val"] for node in outputs)}
    inside = set(region.nodes)
    after = call
    for index, node in enumerate(outputs):
        with graph.inserting_after(after):
            after = part = emit(graph, operator.getitem, call, index, like=like)
        node.replace_all_uses_with(part, delete_user_cb=lambda user: user not in inside and not is_size(user))


def _rows(node: fx.Node) -> int:
    """How many entries of the first axis one step has; 0 where the value is the same for all."""
    symbolic = [size for size in shape(node) if is_symbolic(size)]
    if not symbolic:
        return 0
    if symbolic != [shape(node)[0]]:
        raise Refused(f"{location(node)}: the steps are not the first axis of what a scan takes.")
    return concrete(symbolic[0], 1)


def _prove_separate(owner: fx.GraphModule, region: Region, texts: Symbol) -> None:
    """The step itself must not mix the batch either."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in (*region.before, *region.inputs):
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in owner.graph.nodes:
        if node in region.nodes or (is_size(node) and node not in copies and _feeds(node, region)):
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    check_separate(graph, texts)


def _feeds(node: fx.Node, region: Region) -> bool:
    return any(user in region.nodes for user in node.users)


def _last(graph: fx.Graph, nodes: list[fx.Node]) -> fx.Node:
    chosen = set(nodes)
    return next(node for node in reversed(graph.nodes) if node in chosen)


def _sizes_of(graph: fx.Graph, tokens: fx.Node) -> None:
    """The number of steps is read from the tokens, wherever it was read before."""
    sizes = [node for node in graph.nodes if is_size(node) and node.op == "call_function"]
    for node in sizes:
        if node.target is aten.sym_size.int:
            node.args = (tokens, 0)
    for node in reversed(sizes):
        if node.target is aten.sym_size.int:
            tokens.append(node)


def _drop_input(graph: fx.Graph, node: fx.Node) -> None:
    if node.users:
        user = next(iter(node.users))
        raise Refused(
            f"{location(user)} uses how many tokens came before outside of an attention's mask.",
            hint="Only masks and positions may depend on it.",
            at=user.name,
        )
    graph.erase_node(node)


def _read_as_sequence(program: Program) -> None:
    """Tokens, positions and logits have the steps as their second axis, as one text."""
    graph = program.graph.graph
    for port in TEXT:
        node = program.input(port.role)
        users = list(node.users)
        with node.meta["val"].fake_mode:
            node.meta["val"] = node.meta["val"].reshape(1, -1)
        with graph.inserting_after(node):
            steps = emit(graph, aten.reshape.default, node, [-1, 1], like=node)
        for user in users:
            if user.target is aten.sym_size.int:
                user.args = (node, -1)
            else:
                user.replace_input_with(node, steps)
    logits = program.result(Role.LOGITS)
    with graph.inserting_after(logits):
        text = emit(graph, aten.reshape.default, logits, [1, -1, logits.meta["val"].shape[-1]], like=logits)
    graph.output_node().args = ({program.outputs[0].name: text},)


PASS = Pass(
    "batch-to-sequence",
    "A batch of single steps is read as the positions of one text.",
    lambda program, options: batch_to_sequence(program, options.context),
    requires=(NOTHING_OUTSIDE, PROJECTIONS_HOISTED),
    ensures=(WHOLE_TEXT,),
    changes_ports=True,
)
