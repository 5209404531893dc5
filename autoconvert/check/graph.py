"""Checks the stateful graph in PyTorch, with the real weights: a run in chunks against the source's one run.

All chunks go through the graph together, operation by operation, so that each weight is read once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.check.parity import TOLERANCE, compare_logits, distance, random_tokens
from autoconvert.errors import CheckFailed, Refused
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import named_results, shape
from autoconvert.ir.program import Program
from autoconvert.runtime.chunks import Chunk, split
from autoconvert.source.streamed import TILE, LazyParameter
from autoconvert.source.weights import Weights

aten = torch.ops.aten

# What treats each row of its first operand alone, by all of its weights.
_BY_ROWS: dict[Any, Callable[..., Tensor]] = {
    aten.linear.default: aten.linear.default,
    ops.gated_feed_forward: ops.BODIES[ops.gated_feed_forward],
}

# A larger weight stays on disk, of which an operation reads what it needs; a smaller one is read once for all chunks.
_LARGEST_IN_MEMORY = 256 << 20

# (tokens, slots): a padded chunk, a single token, a full chunk over what padding left, and so on.
_CHUNKS = ((7, 9), (1, 1), (4, 4), (1, 1), (6, 8))


See = Callable[[fx.Node, list[Any]], None]
Logits = Callable[[Sequence[int]], Tensor]


def check_graph(program: Program, weights: Weights, reference: Logits, own_steps: Logits | None = None) -> float:
    """Runs random tokens in chunks and compares the logits at every position with `reference`.

    Gives the largest difference in units of the reference's standard deviation. `own_steps` is what the source says
    token by token, asked only where the logits differ.

    Raises:
        CheckFailed: the logits differ.
        Refused: they differ because the source contradicts itself.
    """
    capacity = int(shape(program.input(Role.MASK))[-1])
    tokens = text_for(capacity, int(shape(program.result(Role.LOGITS))[-1]))
    chunks = chunks_of(tokens, capacity)
    outputs = run_chunks(program, weights, chunks, program.result(Role.LOGITS))
    logits = torch.cat([out[0, : part.real] for out, part in zip(outputs, chunks, strict=True)])
    expected = reference(tokens)
    try:
        return compare_logits(logits, expected, "the rewritten graph, run in chunks,")
    except CheckFailed as failed:
        steps = _own_steps(own_steps, tokens, failed)
        if steps is not None:
            _refuse_contradiction(logits, steps, expected)
        raise


def text_for(capacity: int, vocabulary: int) -> list[int]:
    """The tokens that fill the chunks which a cache of this many slots has room for."""
    return random_tokens(sum(real for real, _ in _sizes(capacity)), vocabulary)


def chunks_of(tokens: Sequence[int], capacity: int) -> list[Chunk]:
    """The same tokens in these chunks."""
    return split(tokens, _sizes(capacity), capacity)


def _sizes(capacity: int) -> list[tuple[int, int]]:
    sizes, total = [], 0
    for real, size in _CHUNKS:
        if total + size <= capacity:
            sizes.append((real, size))
            total += real
    return sizes


def _own_steps(own_steps: Logits | None, tokens: Sequence[int], failed: CheckFailed) -> Tensor | None:
    """What the source says token by token, or None where it cannot: that explains no difference and hides none."""
    try:
        return None if own_steps is None else own_steps(tokens)
    except Exception as error:
        failed.add_note(f"The model's own path for single tokens cannot be compared: {error}")
        return None


def _refuse_contradiction(logits: Tensor, steps: Tensor, whole: Tensor) -> None:
    # The first token has no past: the source runs it as a whole text.
    if float(distance(logits[1:], steps[1:]).max()) <= TOLERANCE:
        difference = float(distance(steps, whole).max())
        raise Refused(
            f"The model contradicts itself: run token by token it gives logits {difference:.2g} standard deviations "
            "from those that it gives for the whole text.",
            hint="Its code for a single token and its code for a text compute different things; compare the two.",
        )


def run_chunks(
    program: Program, weights: Weights, chunks: Sequence[Chunk], result: fx.Node, see: See = lambda *_: None
) -> list[Tensor]:
    """One result of the program for each chunk, the states handed from chunk to chunk and zero at first.

    `see` is told each operation's values, one for each chunk.
    """
    return _Lockstep(program, weights, chunks).run(result, see)


class _Lockstep:
    """Evaluates each operation for every chunk before the next one; frees values after their last use."""

    def __init__(self, program: Program, weights: Weights, chunks: Sequence[Chunk]) -> None:
        self._program, self._weights, self._chunks = program, weights, chunks
        nodes = list(program.graph.graph.nodes)
        self._results = named_results(program.graph.graph)
        self._states = {state.name for state in program.states}
        self._values: list[dict[fx.Node, Any]] = [{} for _ in chunks]
        self._loaded: dict[fx.Node, Tensor] = {}
        self._last_user = {operand: node for node in nodes for operand in node.all_input_nodes}

    def run(self, wanted: fx.Node, see: See) -> list[Tensor]:
        kept: list[Tensor] = []
        with torch.no_grad():
            for node in self._program.graph.graph.nodes:
                if node.op not in ("call_function", "call_module"):
                    continue
                results = self._values_of(node)
                see(node, results)
                if node is wanted:
                    kept = results
                self._free(node)
        return kept

    def _values_of(self, node: fx.Node) -> list[Any]:
        if node.target in _BY_ROWS and all(map(self._is_weight, node.all_input_nodes[1:])):
            for values, result in zip(self._values, self._by_rows(node), strict=True):
                values[node] = result
        return [self._value(node, index) for index in range(len(self._chunks))]

    def _by_rows(self, node: fx.Node) -> list[Tensor]:
        """The rows of all chunks in one call, to which a tile of a matrix is read at a time."""
        x, *others = node.args
        parts = [self._value(x, index) for index in range(len(self._chunks))]  # type: ignore[arg-type]
        rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        weights, named = fx.map_arg((tuple(others), node.kwargs), lambda weight: self._weight(weight, TILE))
        counts = [part[..., 0].numel() for part in parts]
        results = torch.split(_BY_ROWS[node.target](rows, *weights, **named), counts)
        return [result.reshape(*part.shape[:-1], -1) for result, part in zip(results, parts, strict=True)]

    def _free(self, node: fx.Node) -> None:
        self._loaded.clear()
        for operand in [*node.all_input_nodes, node]:
            # What only the output uses is a state, and the next chunk has taken it already.
            if self._last_user.get(operand) is node or all(user.op == "output" for user in operand.users):
                for values in self._values:
                    values.pop(operand, None)

    def _value(self, node: fx.Node, index: int) -> Any:
        values = self._values[index]
        if node not in values:
            if self._is_weight(node):
                return self._weight(node, _LARGEST_IN_MEMORY)
            values[node] = self._compute(node, index)
        return values[node]

    def _compute(self, node: fx.Node, index: int) -> Any:
        name = str(node.target)
        if node.op == "get_attr":
            return getattr(self._program.graph, name)
        if node.op == "placeholder" and name in self._states:
            if index == 0:
                return torch.zeros(tuple(node.meta["val"].shape), dtype=node.meta["val"].dtype)
            return self._value(self._results[name], index - 1)
        if node.op == "placeholder":
            return self._chunks[index].inputs[self._program.roles[name]]
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._value(n, index))
        owner = self._program.graph
        function: Callable[..., Any] = owner.get_submodule(name) if node.op == "call_module" else node.target  # type: ignore[assignment]
        return function(*args, **kwargs)

    def _weight(self, node: fx.Node, largest: int) -> Tensor:
        """The weight, or what reads it where it takes more than `largest` bytes."""
        if node not in self._loaded:
            weight = self._program.weights[str(node.target)]
            self._loaded[node] = (
                LazyParameter(self._weights, weight.sources[0], weight.shape)
                if 4 * torch.Size(weight.shape).numel() > largest and weight.program is None
                else weight.evaluate(self._weights.read)
            )
        return self._loaded[node]

    def _is_weight(self, node: fx.Node) -> bool:
        return node.target in self._program.weights
