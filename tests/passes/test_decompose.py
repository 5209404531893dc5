"""An operation that a pattern brings: one node while blocks are fused, then what the device computes."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.errors import InputError, Refused
from autoconvert.ir.program import Program
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.rewrite.pattern import Pattern
from autoconvert.testing import check
from tests.models import Decoder, assert_chunks_give_what_the_model_gives, merged, rewrite


def squared_relu(x: Tensor, k: float) -> Tensor:
    return torch.relu(x) * torch.relu(x) * k


def as_a_power(x: Tensor, k: float) -> Tensor:
    return torch.clamp(x, min=0.0).square() * k


def reversed_in_time(x: Tensor, k: float) -> Tensor:
    return x.flip(-2) * k


def bringing(operation: ops.Operation, matches: object = squared_relu) -> Pattern:
    return Pattern("squared", "activation", matches, operation, {"x": (1, 5, 14), "k": 0.5}, operations=(operation,))  # type: ignore[arg-type]


OPERATION = ops.operation(squared_relu, as_a_power)
PATTERN = bringing(OPERATION)


def test_it_is_one_node_until_it_is_decomposed_to_its_device_body() -> None:
    seen: dict[str, set[str]] = {}

    def see(step: Pass, program: Program) -> None:
        seen[step.name] = {str(node.target) for node in program.graph.graph.nodes}

    module = Decoder(lambda _, x: squared_relu(x, 0.5))
    program = rewrite(module, patterns=(PATTERN, *PATTERNS), after=see)
    name = str(OPERATION.overload)
    assert {step for step, names in seen.items() if name in names} == {"fuse"}
    assert "aten.clamp_min.default" in seen["decompose"] or "aten.clamp.default" in seen["decompose"]
    assert "aten.relu.default" not in seen["decompose"]
    assert program.fusion.patterns["squared"] == 1
    assert_chunks_give_what_the_model_gives(program, module)


def test_the_process_that_lowers_needs_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconvert.driver.compile._LARGE_MODEL", 0)
    assert check(PATTERN, Decoder(lambda _, x: squared_relu(x, 0.5)), context=16) == 1


def test_one_that_mixes_positions_is_refused_as_its_body_is() -> None:
    operation = ops.operation(reversed_in_time)
    with pytest.raises(Refused, match="flip in "):
        rewrite(
            Decoder(lambda _, x: reversed_in_time(x, 0.5)), patterns=(bringing(operation, reversed_in_time), *PATTERNS)
        )


def reversed_by_way_of_width(x: Tensor, k: float) -> Tensor:
    return k * x.flip(-1).flip(-2).flip(-1)


REVERSED = ops.operation(reversed_in_time, reversed_by_way_of_width)


@pytest.mark.parametrize("becomes", [reversed_by_way_of_width, REVERSED], ids=["becomes", "device body"])
def test_what_is_refused_of_a_pattern_names_its_line_before_the_models(becomes: Callable[..., Tensor]) -> None:
    pattern = replace(bringing(REVERSED, reversed_in_time), becomes=becomes)
    with pytest.raises(Refused) as refused:
        rewrite(Decoder(lambda _, x: reversed_in_time(x, 0.5)), patterns=(pattern, *PATTERNS))
    line = r"/test_decompose\.py:\d+: return k \* x\.flip\(-1\)\.flip\(-2\)\.flip\(-1\)"
    assert re.match(rf"flip in .*{line}, in the place of .*/\w+\.py:\d+\) ", refused.value.message)


def test_two_of_one_name_are_two_operations() -> None:
    again = ops.operation(squared_relu)
    assert again.overload is not OPERATION.overload
    torch.testing.assert_close(again(torch.ones(2), 3.0), OPERATION(torch.ones(2), 3.0))


def test_a_pattern_that_brings_its_operation_holds_alone() -> None:
    check(PATTERN)


def test_a_device_body_with_other_numbers_is_an_input_error() -> None:
    wrong = ops.operation(squared_relu, lambda x, k: torch.relu(x) * k)
    with pytest.raises(InputError, match="`device` bodies of its operations give other numbers"):
        check(bringing(wrong))


def test_an_operation_that_the_pattern_does_not_bring_is_an_input_error() -> None:
    pattern = Pattern("squared", "activation", squared_relu, OPERATION, {"x": (1, 5, 14), "k": 0.5})
    with pytest.raises(InputError, match=r"calls outside\.squared_relu, which the pattern does not bring"):
        check(pattern)


def _over_streams(decoder: Decoder, x: Tensor) -> Tensor:
    """The same queries over what several layers gave, at every position on its own."""
    streams = torch.stack([x, x * decoder.gain, x @ decoder.square / 3], -2)
    queries = decoder.rows[:2].expand(*streams.shape[:2], -1, -1)
    return F.scaled_dot_product_attention(queries, streams, streams, scale=0.4).sum(-2)


def _without_batch(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = (each.squeeze(0) for each in decoder.heads(x))
    return merged(F.scaled_dot_product_attention(query, key, value, is_causal=True)[None])


def _one_key_for_all(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = decoder.heads(x)
    return merged(F.scaled_dot_product_attention(query, key[:, :1], value, is_causal=True))


@pytest.mark.parametrize(
    "module",
    [Decoder(_over_streams), Decoder(attend=_without_batch), Decoder(attend=_one_key_for_all)],
    ids=["over streams", "without a batch", "one key for all heads"],
)
def test_attention_that_nothing_fused_is_written_out(module: Decoder) -> None:
    assert_chunks_give_what_the_model_gives(rewrite(module), module)


def test_dropout_that_stays_on_is_still_refused() -> None:
    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        query, key, value = (each.squeeze(0) for each in decoder.heads(x))
        return merged(F.scaled_dot_product_attention(query, key, value, dropout_p=0.5, is_causal=True)[None])

    with pytest.raises(Refused, match=r"^dropout in decoder"):
        rewrite(Decoder(attend=attend))
