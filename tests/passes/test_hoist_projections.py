"""What is computed from the history of each position alone becomes the history of what it computes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.ir.interface import Port, Role
from autoconvert.ir.nodes import first_operand, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.hoist_projections import hoist_projections
from autoconvert.tracing.exported import export, program_of

SLOTS, WIDTH, HEADS, HEAD = 37, 6, 2, 4

# expand(model, latent [steps, 1, slots, WIDTH], query [steps, HEADS, 1, HEAD]) -> [steps, HEADS, slots, HEAD]
Expand = Callable[["Latent", Tensor, Tensor], Tensor]


class Latent(nn.Module):
    def __init__(self, expand: Expand) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Parameter(torch.randn(HEADS * HEAD, WIDTH))
        self.expand = expand

    def forward(self, x: Tensor) -> list[Tensor]:
        query = (x @ self.up.T).view(-1, 1, HEADS, HEAD).transpose(1, 2)
        latent = ops.history(x[:, None], SLOTS)
        key = self.expand(self, latent, query)
        return [ops.attention(query, key, per_head(self, latent, query), None, 0.5, False)]


def per_head(model: Latent, latent: Tensor, _: Tensor) -> Tensor:
    return (latent @ model.up.T).view(-1, SLOTS, HEADS, HEAD).transpose(1, 2)


def written_in_parts(model: Latent, latent: Tensor, query: Tensor) -> Tensor:
    found = latent.new_empty(latent.shape[0], HEADS, SLOTS, HEAD)
    found[..., :3] = per_head(model, latent, query)[..., :3]
    found[..., 3:] = latent[..., :1].expand(-1, HEADS, -1, -1)
    return found


REFUSED: dict[str, tuple[Expand, str]] = {
    "the mean of all": (lambda m, h, q: per_head(m, h, q) - per_head(m, h, q).mean(-2, keepdim=True), "mixture"),
    "the slot before": (lambda m, h, q: per_head(m, h, q).roll(1, -2), "mixture"),
    "how many slots there are": (lambda m, h, q: per_head(m, h, q) * SLOTS, "mixture"),
    "what is different in each slot": (
        lambda m, h, q: per_head(m, h, q) * torch.arange(SLOTS).view(-1, 1),
        "more than histories and weights",
    ),
    "what the step changes": (lambda m, h, q: per_head(m, h, q) + q, "more than histories and weights"),
}


def traced(expand: Expand) -> Program:
    exported = export(Latent(expand).eval(), (torch.randn(5, 1, WIDTH),), ({0: Dim("s", min=2)},))
    program = program_of(exported, [Port("x", Role.HIDDEN, torch.float32, ("s", 1, WIDTH))], [("y", Role.HIDDEN)])
    return program.with_graph(canonicalize(program.graph, program.weights))


def attention_of(program: Program) -> dict[str, fx.Node]:
    (attention,) = program.graph.graph.find_nodes(op="call_function", target=ops.attention)
    return named_arguments(attention)


@pytest.mark.parametrize("expand", [per_head, written_in_parts])
def test_an_expansion_of_each_slot_is_computed_once_for_each_position(expand: Expand) -> None:
    x, up = torch.randn(3, 1, WIDTH), Latent(expand).up
    program = traced(expand)
    before = program.graph(x, up)["y"]
    program = hoist_projections(program)
    for name in ("key", "value"):
        history = attention_of(program)[name]
        assert history.target is ops.history
        assert shape(first_operand(history))[1:] == (HEADS, 1, HEAD)
    torch.testing.assert_close(program.graph(x, up)["y"], before)


def test_histories_stay_as_they_are() -> None:
    program = traced(lambda m, h, q: h.expand(-1, HEADS, -1, -1)[..., :HEAD])
    again = hoist_projections(hoist_projections(program))
    assert attention_of(again)["key"].target is ops.history


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_more_than_one_slot_is_refused(name: str) -> None:
    expand, reason = REFUSED[name]
    with pytest.raises(Refused, match=reason):
        hoist_projections(traced(expand))
