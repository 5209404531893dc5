"""A composite that takes no symbols stays as it is, one that takes them keeps them, and no fault is passed over."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from autoconvert.passes.canonicalization.composites import RULES
from autoconvert.rewrite.rule import Rewriter
from tests.models import WIDTH, Decoder, traced

aten = torch.ops.aten
_, PADDED, DECOMPOSED = RULES
REWRITER = Rewriter((), (), lambda *_: None)


def node_of(target: Callable[..., Any], mix: Callable[[Decoder, Tensor], Tensor]) -> fx.Node:
    program = traced(Decoder(mix))
    (node,) = program.graph.graph.find_nodes(op="call_function", target=target)
    return node


def cosine(_: Decoder, x: Tensor) -> Tensor:
    return x * F.cosine_similarity(x, x + 1, dim=-1)[..., None]


def test_one_that_takes_no_symbols_stays() -> None:
    node = node_of(aten.fft_fft.default, lambda _, x: torch.fft.fft(x, dim=-1).real)
    with node.graph.inserting_before(node):
        assert DECOMPOSED.rewrite(node, REWRITER) is None


def test_one_that_checks_numbers_stays() -> None:
    node = node_of(aten.linalg_cholesky.default, lambda _, x: x @ torch.linalg.cholesky(x.mT @ x + torch.eye(WIDTH)))
    with node.graph.inserting_before(node):
        assert DECOMPOSED.rewrite(node, REWRITER) is None


def test_one_that_takes_them_is_decomposed() -> None:
    node = node_of(aten.cosine_similarity.default, cosine)
    with node.graph.inserting_before(node):
        assert DECOMPOSED.rewrite(node, REWRITER) is not None


def test_symbols_stay_symbols_where_another_axis_is_padded() -> None:
    """PyTorch's own inference makes 19 of the length (2.13), unless it remembers a result from tracing."""
    program = traced(Decoder(lambda _, x: F.pad(x, (3, 0))[..., :WIDTH]))
    (node,) = program.graph.graph.find_nodes(op="call_function", target=aten.pad.default)
    length = str(node.meta["val"].shape[1])
    with node.graph.inserting_before(node):
        padded = PADDED.rewrite(node, REWRITER)
    assert padded is not None
    assert padded.target is aten.constant_pad_nd.default
    assert [str(size) for size in padded.meta["val"].shape] == ["1", length, str(WIDTH + 3)]


def test_operands_that_do_not_fit_are_no_reason_to_leave_it() -> None:
    node = node_of(aten.cosine_similarity.default, cosine)
    other = node.all_input_nodes[1]
    with other.meta["val"].fake_mode:
        other.meta["val"] = torch.empty(1, 19, WIDTH + 1)
    with node.graph.inserting_before(node), pytest.raises(RuntimeError, match="must match"):
        DECOMPOSED.rewrite(node, REWRITER)
