"""A canonicalization rule is checked where it applies: right ones pass, once per structure, wrong ones are named."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

from autoconvert.check.rule import RuleCheck
from autoconvert.driver.convert import convert
from autoconvert.errors import CheckFailed
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, shape
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.canonicalization import RULES
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Options, run_passes
from autoconvert.rewrite.pattern import Pattern
from autoconvert.rewrite.rule import Rule, RuleTable, rule
from tests import models
from tests.models import CONTEXT, WIDTH, Decoder, tiny_llama

aten = torch.ops.aten

Function = Callable[[Decoder, Tensor], Tensor]

HALVES = torch.full((WIDTH,), 0.5)
ONES = (torch.arange(WIDTH) % 2).float()


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rule], None]:
    """Puts a rule before all others."""

    def first(wrong: Rule) -> None:
        module = sys.modules["autoconvert.passes.canonicalize"]
        monkeypatch.setattr(module, "TABLE", RuleTable((wrong, *RULES)))

    return first


def checked(mix: Function) -> RuleCheck:
    program = models.traced(Decoder(mix))
    check = RuleCheck()
    canonicalize(program.graph, program.weights, check)
    return check


@rule(aten.div.Tensor)
def number_for_its_inverse(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.mul.Tensor, *arguments(node), like=node)


@rule(aten.sub.Tensor)
def exchanged(node: fx.Node) -> fx.Node | None:
    a, b = arguments(node)
    return emit(node.graph, aten.sub.Tensor, b, a, like=node) if isinstance(b, fx.Node) else None


@rule(aten.transpose.int)
def reshaped_for_transposed(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.reshape.default, first_operand(node), [1, WIDTH, -1], like=node)


@rule(aten.softmax.int)
def any_difference_is_nothing(node: fx.Node) -> fx.Node | None:
    source = first_operand(node)
    if source.target is not aten.sub.Tensor:
        return None
    return emit(node.graph, aten.softmax.int, first_operand(source), -1, like=node)


@rule(aten.add.Tensor)
def any_blend_is_choice(node: fx.Node) -> fx.Node | None:
    """x · b + y · (1 − b), whatever b is."""
    first, second = arguments(node)
    if not all(isinstance(n, fx.Node) and n.target is aten.mul.Tensor for n in (first, second)):
        return None
    (x, share), (y, _) = arguments(first), arguments(second)
    never = emit(node.graph, aten.eq.Scalar, share, 0, like=node)
    return emit(node.graph, aten.where.self, never, y, x, like=node)


@rule(aten.index.Tensor)
def one_place_on(node: fx.Node) -> fx.Node | None:
    """x[…, [2, 3]] as x[…, 3:5]."""
    source, (*_, index) = arguments(node)
    (count,) = shape(index)
    return emit(node.graph, aten.slice.Tensor, source, -1, 3, 3 + count, like=node)


@rule(aten._to_copy.default, aten.to.dtype)
def cast_is_nothing(node: fx.Node) -> fx.Node | None:
    return first_operand(node)


@rule(aten.slice.Tensor)
def a_length_is_seven(node: fx.Node) -> fx.Node | None:
    """Right for one length, and for that alone of another shape."""
    end = node.args[-1]
    source = first_operand(node)
    return emit(node.graph, aten.narrow.default, source, 0, 0, 8, like=node) if isinstance(end, fx.Node) else None


@rule(aten.argmax.default)
def another_axis(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.argmax.default, _flipped(node), -1, like=node)


def _flipped(node: fx.Node) -> fx.Node:
    return emit(node.graph, aten.flip.default, first_operand(node), [-1], like=node)


@rule(aten.sin.default)
def rows_that_are_not_there(node: fx.Node) -> fx.Node | None:
    """Of the right type, and fails where it is run."""
    places = emit(node.graph, aten.full.default, [WIDTH], WIDTH, dtype=torch.int64, like=node)
    return emit(node.graph, aten.index_select.default, first_operand(node), 2, places, like=node)


@rule(aten.sqrt.default)
def root_of_twice(node: fx.Node) -> fx.Node | None:
    twice = emit(node.graph, aten.mul.Tensor, first_operand(node), 2.0, like=node)
    return emit(node.graph, aten.sqrt.default, twice, like=node)


WRONG: dict[str, tuple[Rule, Function]] = {
    "a number for its inverse": (number_for_its_inverse, lambda d, x: x / 3.0),
    "operands exchanged": (exchanged, lambda d, x: x.sin() - x.cos()),
    "entries in another order": (reshaped_for_transposed, lambda d, x: (x.mT * 2.0).mT),
    "a fact that is not looked at": (any_difference_is_nothing, lambda d, x: (x - x.amax(1, True)).softmax(-1)),
    "a constant that is not looked at": (any_blend_is_choice, lambda d, x: x * HALVES + x.sin() * (1 - HALVES)),
    "other indices": (one_place_on, lambda d, x: x.repeat(1, 1, 2)[..., torch.tensor([2, 3])].sum(-1, True) + x),
    "another type": (cast_is_nothing, lambda d, x: x + (x > 0).to(torch.int64).sum(-1, True)),
    "another length": (a_length_is_seven, lambda d, x: x + d.rows[: x.shape[1]]),
    "a root of negative numbers": (root_of_twice, lambda d, x: x * (-(x * x) - 1.0).sqrt().nan_to_num()),
    "what cannot be computed": (rows_that_are_not_there, lambda d, x: x.sin()),
    "whole numbers": (another_axis, lambda d, x: x + x.argmax(-1, True)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_named_where_it_applies(name: str, table: Callable[[Rule], None]) -> None:
    wrong, function = WRONG[name]
    table(wrong)
    with pytest.raises(CheckFailed, match=rf"Rule {re.escape(wrong.name)} gives other numbers .*models\.py:\d+: "):
        checked(function)


RIGHT: dict[str, Function] = {
    "a constant that is looked at": lambda d, x: x * ONES + x.sin() * (1 - ONES),
    "what truth is cast to": lambda d, x: x * (x > 0).float() + x.sin() * (1 - (x > 0).float()),
    "a constant that is a number": lambda d, x: x * torch.tensor(3.0),
    "indices that are a slice": lambda d, x: x[..., torch.arange(WIDTH) % WIDTH] * x,
    "less the largest": lambda d, x: (x - x.amax(-1, True)).softmax(-1),
    "roots of negative numbers": lambda d, x: (x**0.5).nan_to_num(),
    "nothing concatenated": lambda d, x: torch.cat((x.sin()[..., :0], x), -1).sin(),
    "whole numbers": lambda d, x: x + (x.argmax(-1, True) * 1 + 0).square(),
    "in a coarse type": lambda d, x: (x.bfloat16() / 3.0).float(),
    "a part written": lambda d, x: written(x),
    "complex numbers": lambda d, x: (
        torch.view_as_complex(x.view(1, -1, WIDTH // 2, 2)).clone().sin().abs().repeat(1, 1, 2)
    ),
    "the same by chance": lambda d, x: torch.rand_like(x).clone() * x,
}


def written(x: Tensor) -> Tensor:
    whole = torch.zeros_like(x)
    whole[..., 0] = x[..., 1]
    whole[..., 0] *= 2.0
    whole[..., 1:] = x[..., 1:]
    return whole


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rule_passes_by_what_it_knows_of_its_operands(name: str) -> None:
    assert checked(RIGHT[name]).executed


def test_layers_of_one_structure_are_executed_once() -> None:
    def executed(layers: int) -> int:
        program = models.traced(tiny_llama(num_hidden_layers=layers))
        check = RuleCheck()
        canonicalize(program.graph, program.weights, check)
        return check.executed

    assert 0 < executed(2) == executed(5)


def test_another_number_is_another_application() -> None:
    assert checked(lambda d, x: x / 3.0 / 3.0).executed + 1 == checked(lambda d, x: x / 3.0 / 5.0).executed


def _doubled(x: Tensor) -> Tensor:
    return torch.tanh(x + x)


def test_rules_are_watched_before_patterns_and_after() -> None:
    """What a pattern puts in the place of a block is canonicalized too."""
    doubled = Pattern("doubled", "block", _doubled, lambda x: torch.tanh(x * 2).clone(), {"x": (1, 5, 8)})
    seen: list[str] = []

    def watch(rule: Rule, node: fx.Node, new: fx.Node) -> None:
        seen.append(rule.name)

    passes = [step for step in PASSES if step.name in ("canonicalize", "fuse")]
    program = models.traced(Decoder(lambda d, x: torch.tanh(x.detach() + x.detach())))
    run_passes(program, Options(CONTEXT, (doubled,), lambda *_: seen.append("a match"), CPU, watch), passes)
    before, after = seen[: seen.index("a match")], seen[seen.index("a match") + 1 :]
    assert before.count("copies.drop_copy") == 2
    assert after == ["copies.drop_copy"]


def test_a_conversion_checks_rules(tmp_path: Path, table: Callable[[Rule], None]) -> None:
    @rule(aten.rsqrt.default)
    def root(node: fx.Node) -> fx.Node | None:
        return emit(node.graph, aten.sqrt.default, first_operand(node), like=node)

    table(root)
    with pytest.raises(CheckFailed, match=r"Rule test_rule\.root gives other numbers"):
        convert(tiny_llama(), tmp_path / "out", context=32, prefill=(4,), formats=("tflite",), cache=False)
