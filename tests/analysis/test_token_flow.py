"""What tokens decide, how it flows, and what a single step looks back on."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autoconvert import ops
from autoconvert.analysis.token_flow import TokenFlow
from autoconvert.ir.program import Program
from autoconvert.passes.canonicalize import canonicalize
from tests import models
from tests.models import Decoder
from tests.steps import Cached, step_of

aten = torch.ops.aten


def flow_of(program: Program) -> TokenFlow:
    return TokenFlow(program.with_graph(canonicalize(program.graph, program.weights)))


def called(flow: TokenFlow, target: object) -> fx.Node:
    """The one call of an operation."""
    (node,) = (node for node in flow.graph.nodes if node.target == target)
    return node


def mix(decoder: Decoder, x: Tensor) -> Tensor:
    """Two ways from a tangent to a quotient; and what is known without tokens: a sine and an exponential."""
    x = torch.tanh(x)
    gain = torch.exp(decoder.gain) * torch.arange(x.shape[1]).float().sin()[:, None]
    return torch.sigmoid(x) / (F.relu(x) + 1) * gain


@pytest.fixture(scope="module")
def flow() -> TokenFlow:
    return flow_of(models.traced(Decoder(mix)))


def test_what_tokens_decide_is_told_from_weights_and_positions(flow: TokenFlow) -> None:
    for target in (aten.embedding.default, aten.tanh.default, aten.div.Tensor):
        assert flow.is_token(called(flow, target))
        assert called(flow, target) in flow.nodes
    for target in (aten.exp.default, aten.sin.default):
        assert not flow.is_token(called(flow, target))
        assert called(flow, target) not in flow.nodes


def test_its_nodes_are_in_the_order_of_the_graph(flow: TokenFlow) -> None:
    assert flow.nodes == [node for node in flow.graph.nodes if node in flow.nodes]
    assert [flow.order[node] for node in flow.graph.nodes] == list(range(len(flow.graph.nodes)))


def test_inputs_and_sizes_are_no_values_that_tokens_decide(flow: TokenFlow) -> None:
    assert all(node.op == "call_function" for node in flow.nodes)
    assert aten.sym_size.int not in [node.target for node in flow.nodes]


def test_operands_and_users_are_those_that_tokens_decide(flow: TokenFlow) -> None:
    (tokens,) = flow.graph.find_nodes(op="placeholder", target="tokens")
    assert flow.operands(called(flow, aten.embedding.default)) == [tokens]
    tangent = called(flow, aten.tanh.default)
    assert set(flow.users(tangent)) == {called(flow, aten.sigmoid.default), called(flow, aten.relu.default)}
    # The output is no call.
    (logits,) = flow.graph.output_node().all_input_nodes
    assert flow.users(logits) == []


def test_the_entry_of_a_value_is_the_last_that_all_ways_to_it_pass(flow: TokenFlow) -> None:
    assert flow.entry(called(flow, aten.div.Tensor)) is called(flow, aten.tanh.default)
    assert flow.entry(called(flow, aten.sigmoid.default)) is called(flow, aten.tanh.default)


def test_the_entry_of_a_residual_is_what_it_goes_around(flow: TokenFlow) -> None:
    """Attention between is passed by one of the ways alone."""
    (tangent,) = flow.graph.find_nodes(op="call_function", target=aten.tanh.default)
    (residual,) = flow.operands(tangent)
    assert flow.entry(residual) is called(flow, aten.embedding.default)


def test_what_has_nothing_before_it_has_no_entry(flow: TokenFlow) -> None:
    (tokens,) = flow.graph.find_nodes(op="placeholder", target="tokens")
    assert flow.entry(tokens) is None
    assert flow.entry(called(flow, aten.sin.default)) is None


def test_between_is_what_computes_a_value_from_its_entry(flow: TokenFlow) -> None:
    quotient, tangent = called(flow, aten.div.Tensor), called(flow, aten.tanh.default)
    found = flow.between(tangent, quotient)
    assert [node.target for node in found if node.target != aten.add.Tensor] == [
        aten.sigmoid.default,
        aten.relu.default,
        aten.div.Tensor,
    ]
    assert [flow.order[node] for node in found] == sorted(flow.order[node] for node in found)
    assert tangent not in found


def test_before_is_what_a_value_is_computed_from_by_others_of_them(flow: TokenFlow) -> None:
    quotient, relu = called(flow, aten.div.Tensor), called(flow, aten.relu.default)
    inside = flow.between(called(flow, aten.tanh.default), quotient)
    assert flow.before(quotient, inside) == [node for node in inside if node is not quotient]
    # The sum between them is left out, and with it the way.
    without = [node for node in inside if node.target != aten.add.Tensor]
    assert relu not in flow.before(quotient, without)


def test_a_whole_text_looks_back_on_nothing(flow: TokenFlow) -> None:
    assert flow.histories == set()
    assert flow.looking_back == []


def looking(query: Tensor, key: Tensor, value: Tensor, row: Tensor, column: Tensor) -> Tensor:
    key = F.normalize(key, dim=-1)
    scores = torch.where(column <= row, query @ key.mT, -1e9)
    return scores.softmax(-1) @ value


@pytest.fixture(scope="module")
def step() -> TokenFlow:
    return flow_of(step_of(Cached(looking)))


def test_what_is_computed_from_histories_alone_is_one(step: TokenFlow) -> None:
    targets = {node.target for node in step.histories}
    assert ops.history in targets
    assert len(step.histories) > 2
    for node in step.histories - set(step.graph.find_nodes(op="call_function", target=ops.history)):
        assert set(step.operands(node)) <= step.histories


def test_what_takes_a_step_together_with_a_history_looks_back(step: TokenFlow) -> None:
    """Scores of a query, and their product with the values; not what follows from them alone."""
    assert [node.target for node in step.looking_back] == [aten.matmul.default] * 2
    softmax = next(node for node in step.nodes if "softmax" in str(node.target))
    assert softmax not in step.looking_back
    assert softmax not in step.histories


class OfPositions(nn.Module):
    """What it gives depends on how many tokens there are alone."""

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.arange(tokens.shape[1]).float().sin()[None, :, None]


def test_a_graph_that_tokens_do_not_decide_has_no_flow() -> None:
    flow = flow_of(models.traced(OfPositions().eval()))
    assert flow.nodes == []
    (logits,) = flow.graph.output_node().all_input_nodes
    assert flow.entry(logits) is None
