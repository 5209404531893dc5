"""Mixtures of experts as people write them: one operation that picks weights, the same numbers in chunks."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert import ops
from tests import models
from tests.models import WIDTH, Decoder

EXPERTS, CHOSEN, INNER = 5, 2, 12


class Mixture(Decoder):
    """A decoder with a router and the weights of all experts; `experts` gives what to add to x [tokens, width]."""

    def __init__(self, experts: Callable[["Mixture", Tensor], Tensor]) -> None:
        super().__init__(lambda _, x: x + experts(self, x[0])[None])
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.gate, self.up = (nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH)) for _ in range(2))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))
        self.bias = nn.Parameter(torch.randn(EXPERTS, INNER))

    def route(self, x: Tensor, count: int = CHOSEN) -> tuple[Tensor, Tensor]:
        weights, numbers = self.router(x).softmax(-1).topk(count, -1)
        return weights / weights.sum(-1, keepdim=True), numbers


def flat_pairs(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    pairs, expert = x.repeat_interleave(CHOSEN, 0), numbers.flatten()
    inner = F.silu(torch.bmm(m.gate[expert], pairs.unsqueeze(-1)).squeeze(-1) + m.bias[expert])
    inner = inner * torch.bmm(m.up[expert], pairs.unsqueeze(-1)).squeeze(-1)
    result = torch.bmm(m.down[expert], inner.unsqueeze(-1)).squeeze(-1) * weights.flatten()[:, None]
    return result.view(-1, CHOSEN, WIDTH).sum(1)


def einsums(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    inner = F.silu(torch.einsum("ti,taoi->tao", x, m.gate[numbers])) * torch.einsum("ti,taoi->tao", x, m.up[numbers])
    return torch.einsum("tai,ta->ti", torch.einsum("tao,taio->tai", inner, m.down[numbers]), weights)


def products(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    inner = F.silu(m.gate[numbers] @ x[:, None, :, None]) * (m.up[numbers] @ x[:, None, :, None])
    return ((m.down[numbers] @ inner)[..., 0] * weights[..., None]).sum(1)


def matrices_used_transposed(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    inner = F.silu(x[:, None, None] @ m.down[numbers]) * (x[:, None, None] @ m.down[numbers])
    return ((inner @ m.up[numbers])[:, :, 0] * weights[..., None]).sum(1)


def halves_as_rows(m: Mixture, x: Tensor) -> Tensor:
    _, numbers = m.route(x, 1)
    halves = torch.stack((x, -x), 1)
    return F.silu(halves @ m.down[numbers[:, 0]]).mean(1) @ m.up[0]


def all_run_for_one(m: Mixture, x: Tensor) -> Tensor:
    """Every expert on every token, times a score that is 0 for all but one."""
    scores = m.router(x)
    best, chosen = torch.topk(scores, 1, dim=1)
    shares = torch.full_like(scores, -torch.inf).scatter_(1, chosen, best).sigmoid()
    copies = (x.repeat(EXPERTS, 1) * shares.T.reshape(-1, 1)).view(EXPERTS, -1, WIDTH)
    gate, up = torch.bmm(copies, m.down).chunk(2, dim=-1)
    return torch.bmm(up * F.silu(gate), m.gate[:, : INNER // 2]).sum(0)


PICKED = (flat_pairs, einsums, products, matrices_used_transposed, halves_as_rows)
STYLES = {style.__name__: style for style in (*PICKED, all_run_for_one)}


@pytest.mark.parametrize("style", STYLES)
def test_weights_are_picked_by_one_operation(style: str) -> None:
    torch.manual_seed(0)
    module = Mixture(STYLES[style]).eval()
    program = models.rewrite(module)
    assert program.graph.graph.find_nodes(op="call_function", target=ops.expert_linear)
    assert not [w for w in program.weights.values() if len(w.shape) == 3]
    models.assert_chunks_give_what_the_model_gives(program, module)


def test_one_matrix_for_several_values_is_left_as_it_is() -> None:
    def shared(m: Mixture, x: Tensor) -> Tensor:
        _, numbers = m.route(x, 1)
        pairs = torch.stack((x, -x))[:, :, None]
        return (pairs @ m.down[numbers[:, 0]]).sum((0, 2)) @ m.up[0]

    torch.manual_seed(0)
    module = Mixture(shared).eval()
    program = models.rewrite(module)
    assert not program.graph.graph.find_nodes(op="call_function", target=ops.expert_linear)
    models.assert_chunks_give_what_the_model_gives(program, module)
