"""The states of scans are inputs and outputs of a chunk, and padding leaves them as they are."""

import pytest
import torch
from torch import Tensor

from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.insert_scan_states import insert_scan_states
from autoconvert.runtime.chunks import Chunk, split
from autoconvert.scan.scan import StatefulScan
from tests import models
from tests.models import CONTEXT, WIDTH, Decoder
from tests.steps import Recurrent, Stepping, run_through, step_of


def with_states(module: torch.nn.Module) -> Program:
    return run_through(step_of(module), "insert-scan-states")


def decaying(model: Recurrent, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    state = state * torch.sigmoid(model.first(x)) + x
    return model.second(state), state


def convolving(model: Recurrent, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    window = torch.cat([state, x[:, :, None]], -1)
    return model.first((window * model.kernel).sum(-1)), window[:, :, 1:]


def mixed(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A convolution's window, and two states that need each other."""
    x = model.embed(token)[:, 0]
    window = torch.cat([kept[0], x[:, :, None]], -1)
    x = (window * model.square[:, :3]).sum(-1)
    first = torch.tanh(kept[1] + kept[2] * model.gain + x)
    second = kept[2] * 0.5 + kept[1]
    return first + second, [window[:, :, 1:], first, second]


def along_tokens(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    state = kept[0] * 0.5 + token
    return model.embed(token)[:, 0] + torch.tanh(state), [state]


@pytest.fixture(scope="module")
def module() -> Stepping:
    return Stepping(mixed, (WIDTH, 2), (WIDTH,), (WIDTH,))


@pytest.fixture(scope="module")
def program(module: Stepping) -> Program:
    return with_states(module)


def test_states_are_named_as_the_runtime_names_them(program: Program) -> None:
    assert [(state.name, state.shape, state.kind, state.sequence_axis) for state in program.states] == [
        ("kv_cache_c_0", (1, WIDTH, 2), "recurrent", None),
        ("kv_cache_r_1", (1, WIDTH), "recurrent", None),
        ("kv_cache_r_2", (1, WIDTH), "recurrent", None),
    ]
    assert {state.dtype for state in program.states} == {torch.float32}


def test_every_state_is_an_input_before_the_weights_and_an_output(program: Program) -> None:
    names = [state.name for state in program.states]
    inputs = [str(node.target) for node in program.graph.graph.find_nodes(op="placeholder")]
    others = [name for name in inputs if name not in program.weights]
    assert [name for name in others if name in names] == names
    assert inputs[: len(others)] == others
    (results,) = program.graph.graph.output_node().args
    assert isinstance(results, dict)
    assert list(results) == ["logits", *names]


def test_states_have_their_shape_and_type(program: Program) -> None:
    for state in program.states:
        (node,) = program.graph.graph.find_nodes(op="placeholder", target=state.name)
        assert (tuple(node.meta["val"].shape), node.meta["val"].dtype) == (state.shape, torch.float32)


def test_every_scan_takes_and_gives_states(program: Program) -> None:
    calls = program.graph.graph.find_nodes(op="call_module")
    carried = [program.graph.get_submodule(str(call.target)) for call in calls]
    assert [len(module.scan.states) for module in carried if isinstance(module, StatefulScan)] == [1, 2]


def test_chunks_give_what_the_model_gives(program: Program, module: Stepping) -> None:
    models.assert_chunks_give_what_the_model_gives(program, module)


def run(program: Program, module: torch.nn.Module, chunk: Chunk, states: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a chunk gives after `states`."""
    weights = models.weights_of(module)
    values = {name: weight.evaluate(weights.read) for name, weight in program.weights.items()} | states
    values |= {port.name: chunk.inputs[port.role] for port in program.inputs}
    names = [str(node.target) for node in program.graph.graph.find_nodes(op="placeholder")]
    with torch.no_grad():
        results: dict[str, Tensor] = program.graph(*(values[name] for name in names))
    return {state.name: results[state.name] for state in program.states}


@pytest.mark.parametrize("slots", [4, 9])
def test_padding_changes_no_state(program: Program, module: Stepping, slots: int) -> None:
    tokens = models.random_ids(7)
    start = {name: torch.randn(tuple(node.meta["val"].shape)) for name, node in program.state_nodes().items()}
    (exact,), (padded, *rest) = (split(tokens[:3], [(3, size)], CONTEXT) for size in (3, slots))
    assert not rest
    after = run(program, module, padded, start)
    for name, expected in run(program, module, exact, start).items():
        assert torch.equal(after[name], expected)


def test_states_join_those_that_are_there() -> None:
    """Attention's caches come first."""
    program = models.rewrite(Decoder(lambda d, x: x.cumsum(1)))
    assert [state.name for state in program.states] == ["kv_cache_k_0", "kv_cache_v_0", "kv_cache_r_0"]


def test_a_program_without_scans_gets_none() -> None:
    program = models.rewrite(Decoder())
    again = insert_scan_states(program, CPU)
    assert again.states == program.states
    assert list(again.graph.graph.output_node().args[0]) == ["logits", "kv_cache_k_0", "kv_cache_v_0"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("update", "shape"), [(decaying, (WIDTH,)), (convolving, (WIDTH, 2))])
def test_layers_keep_their_states_apart(update: object, shape: tuple[int, ...]) -> None:
    module = Recurrent(update, *shape)  # type: ignore[arg-type]
    program = with_states(module)
    assert len({state.name for state in program.states}) == 2
    models.assert_chunks_give_what_the_model_gives(program, module)


def test_a_scan_along_the_tokens_comes_after_its_inputs() -> None:
    module = Stepping(along_tokens, (1,))
    program = with_states(module)
    program.graph.graph.lint()
    models.assert_chunks_give_what_the_model_gives(program, module)
