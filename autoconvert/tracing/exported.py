"""Exporting: what torch.export gives becomes a Program, whose graph names its weights and holds its constants."""

import contextlib
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind
from torch.fx.graph import CodeGen
from torch.utils._sympy.value_ranges import bound_sympy

from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.interface import Port, Role, port_of
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.ir.sizes import without_quotients
from autoconvert.ir.weight import Weight
from autoconvert.source.experts import experts_as_pairs
from autoconvert.tracing.attributes import attributes_restored
from autoconvert.tracing.functional import functional
from autoconvert.tracing.loops import trace_loops
from autoconvert.tracing.token_sizes import bounds, known_sums, with_sums

# Operations that have of their first operand its shape and type alone.
_OVERWRITES = {torch.ops.aten.copy.default, torch.ops.aten.fill.Scalar, torch.ops.aten.fill.Tensor}


def export(
    module: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any = None, kwargs: dict[str, Any] | None = None
) -> ExportedProgram:
    """`torch.export` without noise, functional, at the level of ATen operations that models are written in.

    The module keeps nothing of the call that is traced.
    """
    # With it, the order of an Einstein sum's operands is chosen by their sizes, for which the length must be known.
    without_order = torch.backends.opt_einsum.flags(enabled=False)
    with torch.no_grad(), _quiet(), experts_as_pairs(module), attributes_restored(module), without_order:
        return trace_loops(lambda: functional(_exported(module, args, dynamic_shapes, kwargs)))


def _exported(
    module: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any, kwargs: dict[str, Any] | None
) -> ExportedProgram:
    return torch.export.export(
        module,
        args,
        kwargs,
        dynamic_shapes=dynamic_shapes,
        strict=False,
        # What torch cannot prove for every length stays in the graph as an assertion, and is tried for each.
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def program_of(
    exported: ExportedProgram, inputs: Sequence[Port], outputs: Sequence[tuple[str, Role]], lengths: Sequence[int] = ()
) -> Program:
    """The program whose graph takes `inputs`, then the parameters, and returns `outputs` by name.

    `inputs` are what the module takes, in its order, and name the symbols of the trace; `outputs` are the names and
    roles of what it returns. Buffers and constants are in the graph.

    Raises:
        Inseparable: the trace does not hold at one of `lengths`.
        Refused: the module changes what lasts from call to call, and reads it.
    """
    _refuse_mutation(exported)
    _try_assertions(exported.graph, lengths)
    graph = exported.graph_module.graph
    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = without_quotients(node.meta["val"])
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    root = nn.Module()
    weights: dict[str, Weight] = {}
    given = iter(inputs)
    symbols: dict[str, sympy.Symbol] = {}
    for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.PARAMETER:
            source = (spec.target or "").removeprefix("decoder.")
            node.target = node.name = _input_name(source, weights)
            weights[node.target] = Weight(node.target, tuple(node.meta["val"].shape), (source,))
        elif spec.kind is InputKind.USER_INPUT:
            port = next(given)
            node.target = port.name
            symbols |= _named_symbols(port, node.meta["val"])
        else:
            _make_constant(graph, node, root, _constant_value(exported, spec))
    _parameters_last(graph, weights)
    output = graph.output_node()
    returned = zip(output.args[0], exported.graph_signature.output_specs, strict=True)
    results = [node for node, spec in returned if spec.kind is OutputKind.USER_OUTPUT]
    output.args = (dict(zip((name for name, _ in outputs), results, strict=True)),)
    graph.set_codegen(CodeGen())
    return Program(
        graph=graph_module(root, graph),
        inputs=tuple(inputs),
        outputs=tuple(port_of(node, *named, symbols) for node, named in zip(results, outputs, strict=True)),
        weights=weights,
        symbols=symbols,
    )


def _named_symbols(port: Port, value: Tensor) -> dict[str, sympy.Symbol]:
    """The symbols of the trace that stand where a port has a name."""
    sizes: Sequence[Any] = value.shape
    pairs = zip(port.shape, sizes, strict=True)
    return {name: size.node.expr for name, size in pairs if isinstance(name, str) and isinstance(size, torch.SymInt)}


def _refuse_mutation(exported: ExportedProgram) -> None:
    """A buffer that every call overwrites before it reads it is none that lasts."""
    node_of = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    buffers = {spec.target: node_of[spec.arg.name] for spec in exported.graph_signature.input_specs if spec.target}
    for spec in exported.graph_signature.output_specs:
        if spec.kind is OutputKind.BUFFER_MUTATION and _is_overwritten(buffers[spec.target]):
            continue
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise Refused(
                f"The model changes {spec.target or 'its input'} while it runs.",
                hint="A value that lasts from call to call, other than attention's keys and values, is not covered.",
            )


def _is_overwritten(buffer: fx.Node) -> bool:
    """Whether nothing reads a number of it: a new value takes the place of the whole."""
    return all(
        user.target in _OVERWRITES and user.args[0] is buffer and buffer not in user.args[1:] for user in buffer.users
    )


def _try_assertions(graph: fx.Graph, lengths: Sequence[int]) -> None:
    """The trace holds where its assertions do; those about the length alone are tried for each length."""
    known = {symbol for node in graph.find_nodes(op="placeholder") for symbol in _symbols(node.meta.get("val"))}
    counts, sums = bounds(graph, max(lengths, default=0)), known_sums(graph)
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        asserted = node.args[0].meta["val"] if isinstance(node.args[0], fx.Node) else node.args[0]
        expression = asserted.node.expr if isinstance(asserted, torch.SymBool) else sympy.sympify(asserted)
        symbols = expression.free_symbols
        if symbols <= counts.keys() and bound_sympy(expression, counts).lower is sympy.true:
            continue
        expression = with_sums(expression, sums)
        if expression is sympy.true:
            continue
        symbols = expression.free_symbols
        if not symbols <= known:
            raise Inseparable(f"{location(node)}: the model's code depends on the values of its tokens ({expression}).")
        fails = (n for n in lengths if expression.subs(dict.fromkeys(symbols, n)) is not sympy.true)
        failing = next(fails, None) if len(symbols) == 1 else "some lengths"
        if failing is not None:
            # Where the shortest text fails, no context is small enough.
            shorter = failing - 1 if isinstance(failing, int) and failing > min(lengths) else None
            raise Inseparable(
                f"The model's code takes another path where {expression} does not hold: at {failing}.",
                hint=f"A smaller context may do: --context {shorter}." if shorter else "",
                shorter=shorter,
            )


def _symbols(value: Any) -> set[Any]:
    sizes: Sequence[Any] = value.shape if isinstance(value, Tensor) else ()
    return {symbol for size in sizes if isinstance(size, torch.SymInt) for symbol in size.node.expr.free_symbols}


def _input_name(source: str, taken: Collection[str]) -> str:
    """`source` as an identifier that no other input has, be it another parameter's or the compiler's own."""
    name = source.replace(".", "_")
    if "." not in source:
        name = f"parameter_{name}"
    while name in taken:
        name += "_"
    return name


def _constant_value(exported: ExportedProgram, spec: InputSpec) -> Tensor:
    holders = (exported.state_dict, exported.constants)
    value = next((h[spec.target] for h in holders if spec.target in h), None)
    if not isinstance(value, Tensor):
        raise Refused(f"The constant {spec.target} of the model has no value.")
    return value.detach()


def _make_constant(graph: fx.Graph, node: fx.Node, root: nn.Module, value: Tensor) -> None:
    name = f"constant_{node.name}"
    root.register_buffer(name, value)
    with graph.inserting_before(node):
        constant = graph.create_node("get_attr", name)
    constant.meta = dict(node.meta)
    node.replace_all_uses_with(constant)
    graph.erase_node(node)


def _parameters_last(graph: fx.Graph, parameters: Collection[str]) -> None:
    """Orders the placeholders as people read them: the inputs, then the parameters."""
    placeholders = graph.find_nodes(op="placeholder")
    last = next((node for node in reversed(placeholders) if node.target not in parameters), None)
    for node in placeholders:
        if last is not None and node.target in parameters:
            last.append(node)
            last = node


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what torch.export logs and warns about our own use of it."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # A failed export prints its whole graph.
        with warnings.catch_warnings(), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
