"""A batch of single steps read as one text gives the numbers of the text, or is refused for what looks back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.ir.nodes import named_arguments
from autoconvert.ir.program import Program
from autoconvert.passes.batch_to_sequence import batch_to_sequence
from autoconvert.scan.scan import Scan
from tests import models
from tests.models import CONTEXT, HEADS, VOCABULARY, WIDTH, Decoder
from tests.steps import Cached, Look, Stepping, run_through, step_of

Step = Callable[[Stepping, Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]

native = F.scaled_dot_product_attention


def sequence_of(module: nn.Module) -> Program:
    return run_through(step_of(module), "batch-to-sequence")


def assert_gives_the_text(program: Program, module: nn.Module) -> None:
    tokens = models.random_ids()
    logits = models.execute(program, module, tokens)["logits"]
    models.assert_same(logits[0], models.logits_of_source(module, tokens))


def scans(program: Program) -> list[Scan]:
    return [module for module in program.graph.modules() if isinstance(module, Scan)]


def shapes_of_inputs(program: Program) -> dict[str, list[int | str]]:
    """Of those that are no weights, a symbolic size as s."""
    nodes = program.graph.graph.find_nodes(op="placeholder")
    return {
        str(node.target): ["s" if isinstance(n, torch.SymInt) else n for n in node.meta["val"].shape]
        for node in nodes
        if node.target not in program.weights
    }


def hidden(shows: Callable[[Tensor, Tensor], Tensor]) -> Look:
    """Attention in which the query at a row sees what `shows(row, column)` says."""
    return lambda query, key, value, row, column: native(query, key, value, attn_mask=shows(row, column))


LOOKS: dict[str, tuple[Look, int, int]] = {
    "causal": (hidden(lambda row, column: column <= row), 0, 0),
    "window": (hidden(lambda row, column: (column <= row) & (column > row - 4)), 4, 0),
    "chunk": (hidden(lambda row, column: (column <= row) & (column // 4 == row // 4)), 0, 4),
    "added": (
        lambda q, k, v, row, column: native(q, k, v, attn_mask=torch.where(column <= row, 0.0, -1e9)),
        0,
        0,
    ),
}


@pytest.mark.parametrize("name", LOOKS)
def test_attention_over_the_history_is_causal_attention_over_the_text(name: str) -> None:
    look, window, chunk_size = LOOKS[name]
    module = Cached(look)
    program = sequence_of(module)
    (attention,) = program.graph.graph.find_nodes(op="call_function", target=ops.attention)
    given = named_arguments(attention)
    assert (given["causal"], given["mask"]) == (True, None)
    assert (given["window"], given["chunk_size"]) == (window, chunk_size)
    assert_gives_the_text(program, module)


@pytest.fixture(scope="module")
def text() -> Program:
    return sequence_of(Cached())


def test_the_inputs_are_those_of_a_text(text: Program) -> None:
    assert shapes_of_inputs(text) == {"tokens": [1, "s"], "positions": [1, "s"]}
    assert text.states == ()


def test_the_logits_are_those_of_a_text(text: Program) -> None:
    (logits,) = text.graph.graph.output_node().all_input_nodes
    first, length, vocabulary = logits.meta["val"].shape
    assert (first, vocabulary) == (1, VOCABULARY)
    assert isinstance(length, torch.SymInt)


def test_a_trace_of_a_text_stays_as_it_is() -> None:
    program = models.traced(Decoder())
    assert batch_to_sequence(program, CONTEXT) is program


def one(model: Stepping, token: Tensor) -> Tensor:
    """[batch, width]."""
    return model.embed(token)[:, 0]


def chained(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The second state follows the first, which knows nothing of it."""
    first = kept[0] * 0.5 + one(model, token)
    second = kept[1] * torch.sigmoid(first @ model.square) + first
    return second, [first, second]


def entangled(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    first = torch.tanh(kept[0] + kept[1] * model.gain + one(model, token))
    second = kept[1] * 0.5 + kept[0]
    return first + second, [first, second]


def rows_of_heads(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The step takes a row for each head, [batch · heads, width of a head]."""
    rows = one(model, token).reshape(-1, WIDTH // HEADS)
    state = kept[0] * 0.5 + (rows * rows.mean(-1, keepdim=True)).reshape(-1, HEADS, WIDTH // HEADS)
    return torch.tanh(state).flatten(1), [state]


def shifting(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    return kept[0] * model.gain, [one(model, token)]


def counting(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The state runs along the tokens themselves."""
    state = kept[0] * 0.5 + token
    return one(model, token) + torch.tanh(state), [state]


def both_sides(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What is read of the state is before the step as well as after it."""
    state = kept[0] * model.gain.sigmoid() + one(model, token)
    return (state - kept[0]) @ model.square + kept[0], [state]


STEPS: dict[str, tuple[Step, list[tuple[int, ...]], list[int]]] = {
    "one after the other": (chained, [(WIDTH,), (WIDTH,)], [1, 1]),
    "each needs the other": (entangled, [(WIDTH,), (WIDTH,)], [2]),
    "several rows a step": (rows_of_heads, [(HEADS, WIDTH // HEADS)], [1]),
    "a state that no operation changes": (shifting, [(WIDTH,)], [1]),
    "along the tokens": (counting, [(1,)], [1]),
    "before and after": (both_sides, [(WIDTH,)], [1]),
}


@pytest.mark.parametrize("name", STEPS)
def test_states_become_scans(name: str) -> None:
    """With as many states each as need each other."""
    step, states, expected = STEPS[name]
    module = Stepping(step, *states)
    program = sequence_of(module)
    assert [len(scan.states) for scan in scans(program)] == expected
    assert shapes_of_inputs(program) == {"tokens": [1, "s"], "positions": [1, "s"]}
    assert_gives_the_text(program, module)


def test_matrices_stay_outside_of_a_scan() -> None:
    program = sequence_of(Stepping(both_sides, (WIDTH,)))
    (scan,) = scans(program)
    targets = {node.target for node in scan.step.graph.nodes}
    assert not targets & {torch.ops.aten.matmul.default, torch.ops.aten.linear.default}


@pytest.mark.parametrize("name", ["each needs the other", "along the tokens", "a state that no operation changes"])
def test_what_was_a_state_is_one_again_in_chunks(name: str) -> None:
    step, states, _ = STEPS[name]
    module = Stepping(step, *states)
    program = run_through(step_of(module), "insert-scan-states")
    models.assert_chunks_give_what_the_model_gives(program, module)


def text_by_text(step: Step) -> Step:
    """The model's code loops over the texts of a batch, so that it is traced for one."""

    def looping(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        texts = [step(model, token[i : i + 1], [k[i : i + 1] for k in kept]) for i in range(len(token))]
        after = [torch.cat(states) for states in zip(*(states for _, states in texts), strict=True)]
        return torch.cat([x for x, _ in texts]), after

    return looping


def test_a_model_that_takes_one_text_at_a_time_is_one_scan() -> None:
    module = Stepping(text_by_text(chained), (WIDTH,), (WIDTH,))
    program = sequence_of(module)
    (scan,) = scans(program)
    assert len(scan.states) == 2
    assert scan.step.graph.find_nodes(op="call_function", target=torch.ops.aten.embedding.default)
    assert_gives_the_text(program, module)


class OneTextWithCache(Cached):
    """Loops over the texts of a batch, with attention over a history."""

    def forward(self, tokens: Tensor, past_key_values: Any = None, use_cache: bool = False) -> dict[str, Any]:
        output = super().forward(tokens, past_key_values, use_cache)
        rows = [output["logits"][text] for text in range(len(tokens))]
        return {**output, "logits": torch.stack(rows)}


def test_one_text_at_a_time_that_looks_back_is_refused() -> None:
    with pytest.raises(Refused, match="looks back in a model that takes one text at a time only"):
        sequence_of(OneTextWithCache())


def of_three_widths(query: Tensor, key: Tensor, value: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Attention over what is the same for every position."""
    return native(query, query, query, attn_mask=column[:, :1] <= row)


REFUSED_LOOKS: dict[str, tuple[Look, str]] = {
    "sees later ones": (hidden(lambda row, column: column < row + 3), "has a mask that is not causal"),
    "sees nothing": (hidden(lambda row, column: column < row), "has a mask that is closed"),
    "a bias by distance": (
        lambda q, k, v, row, column: native(q, k, v, attn_mask=torch.where(column <= row, (column - row) * 0.5, -1e9)),
        "has a bias, and is seen in single steps only",
    ),
    "a bias by token": (
        lambda q, k, v, row, column: native(q, k, v, attn_mask=torch.where(column <= row, q[..., :1], -1e9)),
        "has a bias that is computed from",
    ),
    "the step's own": (of_three_widths, "looks back at what is not simply the keys and values of every position"),
    "no mask": (lambda q, k, v, *_: native(q, k, v), "looks back on what was before outside of a fused attention"),
    "a sum": (
        lambda q, k, v, row, column: torch.where((column <= row)[..., None], v[:, :, None], 0.0).sum(-2),
        "looks back on what was before outside of a fused attention",
    ),
    "something beside the history": (
        lambda q, k, v, row, column: native(
            q,
            torch.cat([k, k[:, :, :1]], 2),
            torch.cat([v, v[:, :, :1]], 2),
            attn_mask=torch.cat([column, column[:, :1]], 1) <= row,
        ),
        "looks back on a mixture of positions",
    ),
    "counts tokens": (
        lambda q, k, v, row, column: native(q, k, v, attn_mask=column <= row) * row,
        "uses how many tokens came before outside of an attention's mask",
    ),
}


@pytest.mark.parametrize("name", REFUSED_LOOKS)
def test_what_looks_back_otherwise_is_refused(name: str) -> None:
    look, message = REFUSED_LOOKS[name]
    with pytest.raises(Refused, match=message) as refusal:
        sequence_of(Cached(look))
    # The place in the model's code is named.
    assert "tests/" in refusal.value.message


def closed_off(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    state = torch.tanh(kept[0] * model.gain + 1)
    return one(model, token) + state @ model.square, [state]


def transposed(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What the step takes is [3, batch, width]."""
    wide = torch.stack([one(model, token), one(model, token) * 2, one(model, token) @ model.square])
    state = (kept[0] + wide).mean(0)
    return state, [state]


def across(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Texts meet within the step."""
    state = kept[0] * 0.5 + one(model, token)
    state = state - state.cumsum(0) * 0.1
    return state, [state]


REFUSED_STEPS: dict[str, tuple[Step, str]] = {
    "no token changes it": (closed_off, "a state that no token changes is not covered"),
    "steps are another axis": (transposed, "the steps are not the first axis of what a scan takes"),
    "texts meet in the step": (across, "cannot be split into chunks: it combines values of several positions"),
}


@pytest.mark.parametrize("name", REFUSED_STEPS)
def test_a_state_that_is_none_of_a_text_is_refused(name: str) -> None:
    step, message = REFUSED_STEPS[name]
    with pytest.raises(Refused, match=message):
        sequence_of(Stepping(step, (WIDTH,)))


class RememberingTokens(nn.Module):
    """Keeps the last token as it is, a whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor, last: list[Tensor] | None = None, use_cache: bool = False) -> dict[str, Any]:
        before = torch.zeros_like(tokens[:, :1]) if last is None else last[0]
        shifted = torch.cat([before, tokens[:, :-1]], 1)
        return {"logits": self.head(self.embed(tokens) + self.embed(shifted)), "last": [tokens[:, -1:].clone()]}


def test_a_state_of_whole_numbers_is_refused() -> None:
    with pytest.raises(Refused, match=r"embedding in embed .* reads a state of torch.int64"):
        sequence_of(RememberingTokens().eval())


def sizes_read(graph: fx.Graph) -> list[fx.Node]:
    return graph.find_nodes(op="call_function", target=torch.ops.aten.sym_size.int)


def test_the_number_of_steps_is_read_from_the_tokens() -> None:
    def expanded(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = one(model, token)
        state = kept[0] * 0.5 + x + model.gain.expand(x.shape[0], -1)
        return state + torch.ones(state.shape[0], 1), [state]

    module = Stepping(expanded, (WIDTH,))
    program = sequence_of(module)
    assert {str(node.args[0]) for node in sizes_read(program.graph.graph)} <= {"tokens"}
    assert_gives_the_text(program, module)
