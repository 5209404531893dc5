"""The stateful graph in chunks against the source: what it accepts, and what it does not let pass."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.check.graph import check_graph, run_chunks
from autoconvert.errors import CheckFailed, Refused
from autoconvert.ir.editing import set_arguments
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import named_results
from autoconvert.ir.program import Program
from autoconvert.runtime.chunks import split
from tests import models
from tests.models import CHUNKS, CONTEXT, Decoder
from tests.source.tiny import Recording


@pytest.fixture(scope="module")
def module() -> Decoder:
    return Decoder(lambda d, x: x * (1 + d.gain))


@pytest.fixture
def program(module: Decoder) -> Program:
    return models.rewrite(module)


def check(program: Program, module: Decoder) -> float:
    def reference(tokens: Sequence[int]) -> Tensor:
        return models.logits_of_source(module, tokens)

    return check_graph(program, models.weights_of(module), reference)


def test_a_right_program_passes(program: Program, module: Decoder) -> None:
    assert check(program, module) < 1e-5


def test_each_weight_is_read_once_for_all_chunks(program: Program, module: Decoder) -> None:
    weights = Recording(models.weights_of(module))
    run_chunks(program, weights, split(models.random_ids(), CHUNKS, CONTEXT), program.result(Role.LOGITS))
    assert sorted(weights.read_names) == sorted({source for w in program.weights.values() for source in w.sources})


def test_a_changed_weight_fails(program: Program, module: Decoder) -> None:
    weight = program.weights["query_weight"]
    wrong = dataclasses.replace(weight, sources=("key.weight",))
    with pytest.raises(CheckFailed, match="first at position"):
        check(dataclasses.replace(program, weights={**program.weights, weight.name: wrong}), module)


def test_a_changed_scale_fails(program: Program, module: Decoder) -> None:
    (attention,) = program.graph.graph.find_nodes(op="call_function", target=ops.cached_attention)
    set_arguments(attention, scale=0.51)
    with pytest.raises(CheckFailed, match="first at position 1 "):
        check(program, module)


def test_states_that_are_not_handed_on_fail(program: Program, module: Decoder) -> None:
    output = program.graph.graph.output_node()
    results = dict(output.args[0])  # type: ignore[arg-type]
    cache = program.graph.graph.find_nodes(op="placeholder", target="kv_cache_k_0")[0]
    output.args = ({**results, "kv_cache_k_0": cache},)
    with pytest.raises(CheckFailed, match="first at position 7 "):
        check(program, module)


def test_numbers_that_are_none_fail(program: Program, module: Decoder) -> None:
    def reference(tokens: Sequence[int]) -> Tensor:
        logits = models.logits_of_source(module, tokens)
        logits[3] = torch.nan
        return logits

    with pytest.raises(CheckFailed, match="first at position 3 "):
        check_graph(program, models.weights_of(module), reference)


def test_chunked_states_are_those_of_one_run(program: Program, module: Decoder) -> None:
    tokens = models.random_ids()
    values = named_results(program.graph.graph)["kv_cache_v_0"]
    one = run_chunks(program, models.weights_of(module), split(tokens, ((19, 19),), CONTEXT), values)
    many = run_chunks(program, models.weights_of(module), split(tokens, CHUNKS, CONTEXT), values)
    torch.testing.assert_close(many[-1][:, :, :19], one[-1][:, :, :19])


def test_steps_that_fail_hide_no_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: object) -> Tensor:
        raise Refused("no such path")

    def differing(*_: object) -> float:
        raise CheckFailed("the logits differ")

    module = models.tiny_llama()
    program = models.rewrite(module)
    monkeypatch.setattr("autoconvert.check.graph.compare_logits", differing)
    with pytest.raises(CheckFailed, match="the logits differ"):
        check_graph(program, models.weights_of(module), lambda tokens: models.logits_of_source(module, tokens), failing)
