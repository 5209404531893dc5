"""Tracing: the model is called once, without a cache, at a symbolic length, and becomes a Program."""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind
from torch.fx.graph import CodeGen

from autoconvert.errors import InputError, Refused
from autoconvert.functional import functional
from autoconvert.program import Program, Weight

TOKENS = "tokens"
POSITIONS = "positions"

_TRACED_LENGTH = 19
_POSITION_PARAMETERS = ("position_ids", "positions")


class TokensToLogits(nn.Module):
    """Calls any decoder in the one way the compiler needs.

    `tokens` int64 [1, sequence] and `positions` int64 [1, sequence] give logits float32 [1, sequence, vocabulary].
    Positions are passed on only where the decoder asks for them: one that can do without makes its own, and those
    are what people get who call it. With `keep` int64 [kept] the logits are those at these positions alone,
    [1, kept, vocabulary]; a decoder that can leave out the others does.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self._parameters_of_forward = inspect.signature(decoder.forward).parameters
        self._position_parameter = next((name for name in _POSITION_PARAMETERS if self._requires(name)), None)

    def _requires(self, name: str) -> bool:
        parameter = self._parameters_of_forward.get(name)
        return parameter is not None and parameter.default is inspect.Parameter.empty

    def forward(self, tokens: Tensor, positions: Tensor, keep: Tensor | None = None) -> Tensor:
        options: dict[str, Any] = {}
        if self._position_parameter:
            options[self._position_parameter] = positions
        if "use_cache" in self._parameters_of_forward:
            options["use_cache"] = False
        leaves_out = keep is not None and "logits_to_keep" in self._parameters_of_forward
        if leaves_out:
            options["logits_to_keep"] = keep
        logits = logits_of(self.decoder(tokens, **options))
        return logits if keep is None or leaves_out else logits[:, keep]


def logits_of(output: object) -> Tensor:
    """The logits in whatever a decoder returns: a tensor, a tuple that starts with it, or a field `logits`."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InputError(
            f"The model returns {type(output).__name__}, in which no logits are found.",
            hint="forward(tokens) must return a tensor, a tuple that starts with it, or an object with `logits`.",
        )
    return logits


def trace(decoder: nn.Module, longest: int) -> Program:
    """Traces `decoder` at a symbolic length of at most `longest` positions.

    The program's graph takes `tokens` and `positions` (int64 [1, s]) and every parameter by name, and
    returns `logits` (float32 [1, s, vocabulary]). Buffers are constants of the graph.

    Raises:
        Refused: the model's code cannot be traced, or only at a fixed length.
    """
    length = Dim("s", min=2, max=longest)
    example = min(_TRACED_LENGTH, longest - 1)
    try:
        exported = export(
            TokensToLogits(decoder.eval()),
            (torch.zeros(1, example, dtype=torch.int64), torch.arange(example)[None]),
            dynamic_shapes=({1: length}, {1: length}),
        )
    except (InputError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise Refused(
            f"The model's code cannot be traced with a symbolic length: {_first_line(error)}",
            hint=_source_line(error),
        ) from error
    return _program(exported)


def export(
    module: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any = None, kwargs: dict[str, Any] | None = None
) -> ExportedProgram:
    """`torch.export` without noise, functional, at the level of ATen operations that models are written in."""
    with torch.no_grad(), _quiet():
        exported = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
        return functional(exported)


def graph_of(exported: ExportedProgram) -> tuple[fx.GraphModule, dict[str, str]]:
    """The exported graph with constants and buffers inside, and its parameters by placeholder name.

    The placeholders are the user's inputs, then the parameters; the graph returns what the module returned
    first.
    """
    _refuse_mutation(exported)
    graph = exported.graph_module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    root = nn.Module()
    parameters: dict[str, str] = {}
    for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.PARAMETER:
            source = (spec.target or "").removeprefix("decoder.")
            node.target = node.name = _input_name(source, parameters)
            node.meta["is_weight"] = True
            parameters[node.target] = source
        elif spec.kind is not InputKind.USER_INPUT:
            _make_constant(graph, node, root, _constant_value(exported, spec))
    _parameters_last(graph, parameters)
    output = next(iter(reversed(graph.nodes)))
    output.args = (output.args[0][0],)
    graph.set_codegen(CodeGen())
    return fx.GraphModule(root, graph), parameters


def _refuse_mutation(exported: ExportedProgram) -> None:
    for spec in exported.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise Refused(
                f"The model changes {spec.target or 'its input'} while it runs.",
                hint="A value that lasts from call to call, other than attention's keys and values, is not covered.",
            )


def _input_name(source: str, taken: Collection[str]) -> str:
    """`source` as an identifier that no other input has, be it another parameter's or the compiler's own."""
    name = source.replace(".", "_")
    if "." not in source:
        name = f"parameter_{name}"
    while name in taken:
        name += "_"
    return name


def _program(exported: ExportedProgram) -> Program:
    graph, parameters = graph_of(exported)
    output = next(iter(reversed(graph.graph.nodes)))
    output.args = ({"logits": output.args[0]},)
    graph.recompile()
    nodes = {node.target: node for node in graph.graph.nodes if node.op == "placeholder"}
    weights = {
        name: Weight(name, tuple(nodes[name].meta["val"].shape), (source,)) for name, source in parameters.items()
    }
    return Program(graph, weights)


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


def _parameters_last(graph: fx.Graph, parameters: dict[str, str]) -> None:
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _source_line(error: Exception) -> str:
    """The innermost line of the traceback that belongs to a model, not to torch itself."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    for frame in reversed(frames):
        if "/torch/" not in frame.filename and "/autoconvert/" not in frame.filename:
            code = (frame.code_context or [""])[0].strip()
            return f"It happens at {frame.filename}:{frame.lineno}: {code}"
    return ""
