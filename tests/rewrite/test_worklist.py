"""The driver: rules by operation, visited again where operands changed, and stopped where there is no end."""

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import emit, traced
from autoconvert.ir.nodes import arguments, first_operand
from autoconvert.rewrite.rule import Rewriter, Rule, RuleTable, rewriter_rule, rule
from autoconvert.rewrite.worklist import Worklist

aten = torch.ops.aten


@rule(aten.sin.default)
def sine_is_cosine(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.cos.default, first_operand(node), like=node)


@rule(aten.cos.default)
def cosine_is_sine(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.sin.default, first_operand(node), like=node)


@rule(aten.cos.default)
def cosine_is_exponential(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.exp.default, first_operand(node), like=node)


@rule(aten.exp.default)
def declining(node: fx.Node) -> fx.Node | None:
    emit(node.graph, aten.tanh.default, first_operand(node), like=node)
    return None


@rule()
def of_any(node: fx.Node) -> fx.Node | None:
    return None


@rule(aten.neg.default)
def negation_of_exponential_is_relu(node: fx.Node) -> fx.Node | None:
    source = first_operand(node)
    is_exponential = source.target is aten.exp.default
    return emit(node.graph, aten.relu.default, first_operand(source), like=node) if is_exponential else None


@rewriter_rule(aten.mul.Tensor)
def factor_is_read_of(node: fx.Node, rewriter: Rewriter) -> fx.Node | None:
    """The users of a product read its second factor where that is a weight."""
    factor = arguments(node)[1]
    if rewriter.is_weight(factor):
        for user in list(node.users):
            if user.target is aten.relu.default:
                rewriter.replace(user, factor)
    return None


def graph_of(function: object) -> fx.Graph:
    with FakeTensorMode() as mode:
        x = mode.from_tensor(torch.randn(3))
    return traced(function, {"x": x, "w": x}).graph  # type: ignore[arg-type]


def operations(graph: fx.Graph) -> list[object]:
    graph.eliminate_dead_code()
    return [node.target for node in graph.nodes if node.op == "call_function"]


def run(graph: fx.Graph, *rules: Rule) -> list[tuple[str, str, str]]:
    """What was applied: the rule, the node and what takes its place."""
    seen: list[tuple[str, str, str]] = []
    worklist = Worklist(
        graph, RuleTable(rules), {"w"}, lambda rule, node, new: seen.append((rule.name, str(node.target), new.name))
    )
    worklist.add(graph.nodes)
    assert worklist.run()
    assert not worklist.run()
    return seen


def test_a_node_asks_the_rules_of_its_operation_in_order_then_those_of_any() -> None:
    table = RuleTable((of_any, sine_is_cosine, cosine_is_sine, cosine_is_exponential))
    assert table[aten.cos.default] == (cosine_is_sine, cosine_is_exponential, of_any)
    assert table[aten.sin.default] == (sine_is_cosine, of_any)
    assert table[aten.relu.default] == (of_any,)


def test_a_rule_is_named_by_its_file_and_function() -> None:
    assert sine_is_cosine.name == "test_worklist.sine_is_cosine"


def test_what_a_rule_makes_is_rewritten_too() -> None:
    graph = graph_of(lambda x, w: x.sin())
    seen = run(graph, cosine_is_exponential, sine_is_cosine)
    assert operations(graph) == [aten.exp.default]
    assert [name for name, *_ in seen] == ["test_worklist.sine_is_cosine", "test_worklist.cosine_is_exponential"]


def test_users_are_visited_again_when_an_operand_changes_later() -> None:
    """The negation is visited before anybody tells that its operand is another."""
    graph = graph_of(lambda x, w: (x.sin().neg(), x.exp()))
    worklist = Worklist(graph, RuleTable((negation_of_exponential_is_relu,)))
    worklist.add(graph.nodes)
    worklist.run()
    assert aten.relu.default not in operations(graph)
    sine, exponential = (
        next(node for node in graph.nodes if node.target is target) for target in (aten.sin.default, aten.exp.default)
    )
    exponential.append(next(iter(sine.users)))
    worklist.replace(sine, exponential)
    assert worklist.run()
    assert aten.relu.default in operations(graph)


def test_what_a_declining_rule_left_is_gone() -> None:
    graph = graph_of(lambda x, w: x.exp())
    assert run(graph, declining) == []
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [aten.exp.default]


def test_another_node_than_its_own_is_replaced_through_the_rewriter_and_seen() -> None:
    graph = graph_of(lambda x, w: (x * w.sin()).relu().neg())
    assert run(graph, factor_is_read_of) == [("test_worklist.factor_is_read_of", "aten.relu.default", "sin")]
    assert operations(graph) == [aten.sin.default, aten.neg.default]


def test_only_what_comes_of_weights_alone_is_one() -> None:
    graph = graph_of(lambda x, w: (w * x.sin()).relu())
    assert run(graph, factor_is_read_of) == []


def test_rules_that_undo_each_other_are_named() -> None:
    graph = graph_of(lambda x, w: x.sin())
    with pytest.raises(RuntimeError, match=r"does not end: rule test_worklist\.\w+ applies to \w+ .* sin became"):
        run(graph, sine_is_cosine, cosine_is_sine)


def test_a_rule_whose_result_it_applies_to_is_named() -> None:
    @rule(aten.relu.default)
    def growing(node: fx.Node) -> fx.Node | None:
        return emit(
            node.graph, aten.relu.default, emit(node.graph, aten.relu.default, *node.args, like=node), like=node
        )

    def rectified(x: Tensor, w: Tensor) -> Tensor:
        return x.relu()

    with pytest.raises(RuntimeError, match=r"rule test_worklist\.growing"):
        run(graph_of(rectified), growing)
