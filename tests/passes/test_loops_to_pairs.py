"""Loops that run each expert on its own tokens: one computation for all pairs, or refused where they are more."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert import ops
from autoconvert.errors import Refused
from tests import models
from tests.models import WIDTH, Decoder

EXPERTS, CHOSEN, INNER = 4, 2, 12


class Mixture(Decoder):
    """A decoder with a router and the weights of all experts; `experts` gives what to add to x [tokens, width]."""

    def __init__(self, experts: Callable[["Mixture", Tensor], Tensor]) -> None:
        super().__init__(lambda _, x: x + experts(self, x[0])[None])
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH))
        self.bias = nn.Parameter(torch.randn(EXPERTS, INNER))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, INNER), nn.SiLU(), nn.Linear(INNER, WIDTH)) for _ in range(EXPERTS)
        )

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, numbers = self.router(x).softmax(-1).topk(CHOSEN, -1)
        return weights, numbers

    def expert(self, x: Tensor, number: int | Tensor) -> Tensor:
        return F.linear(F.silu(F.linear(x, self.up[number], self.bias[number])), self.down[number])


def over_all(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
    for number in range(EXPERTS):
        slot, token = torch.where(mask[number])
        total.index_add_(0, token, m.expert(x[token], number) * weights[token, slot, None])
    return total


def over_those_hit(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
    for place in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        number = place[0]
        slot, token = torch.where(mask[number])
        total.index_add_(0, token, m.expert(x[token], number) * weights[token, slot, None])
    return total


def with_a_class_that_never_occurs(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS + 1).permute(2, 1, 0), torch.zeros_like(x)
    for place in (mask.sum(dim=(-1, -2)) > 0).nonzero():
        slot, token = torch.where(mask[place[0]])
        total.index_add_(0, token, m.expert(x[token], place[0]) * weights[token, slot, None])
    return total


def with_modules(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS).permute(2, 0, 1), torch.zeros_like(x)
    for number, layer in enumerate(m.layers):
        token, slot = torch.where(mask[number])
        total = total.index_add(0, token, weights[token, slot][:, None] * layer(x[token]))
    return total


def with_some_that_do_nothing(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
    for place in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        number = int(place.item())
        slot, token = torch.where(mask[number])
        if token.numel() == 0:
            continue
        result = m.expert(x[token], number) if number < 3 else x[token]
        total.index_add_(0, token, result * weights[token, slot, None])
    return total


LOOPS = {f.__name__: f for f in (over_all, over_those_hit, with_a_class_that_never_occurs, with_modules)}
LOOPS["with_some_that_do_nothing"] = with_some_that_do_nothing


def mixture(experts: Callable[[Mixture, Tensor], Tensor]) -> Mixture:
    torch.manual_seed(0)
    module = Mixture(experts)
    return module.eval()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_over_experts_picks_weights_for_pairs(loop: str) -> None:
    module = mixture(LOOPS[loop])
    program = models.rewrite(module)
    graph = program.graph.graph
    assert len(graph.find_nodes(op="call_function", target=ops.expert_linear)) == 2
    assert not graph.find_nodes(op="call_function", target=ops.visit)
    models.assert_chunks_give_what_the_model_gives(program, module)


Body = Callable[[Mixture, Tensor, int | Tensor, Tensor, Tensor, Tensor], Tensor]


def loop(body: Body, over: str = "hit") -> Callable[[Mixture, Tensor], Tensor]:
    """A loop that adds `body(m, x, number, mask, token, total)` to a sum that starts as zeros."""

    def experts(m: Mixture, x: Tensor) -> Tensor:
        _, numbers = m.route(x)
        mask, total = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0)
        for number in (place[0] for place in hit.nonzero()) if over == "hit" else range(EXPERTS):
            _, token = torch.where(mask[number])
            total = body(m, x, number, mask, token, total)
        return total

    return experts


def counted(m: Mixture, x: Tensor) -> Tensor:
    _, numbers = m.route(x)
    mask, total, count = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x), 0
    for place in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        _, token = torch.where(mask[place[0]])
        total.index_add_(0, token, m.expert(x[token], place[0]))
        count += 1
    return total / count


def carried(m: Mixture, x: Tensor) -> Tensor:
    _, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
    scale: Tensor = m.gain
    for place in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        _, token = torch.where(mask[place[0]])
        total.index_add_(0, token, m.expert(x[token], place[0]) * scale)
        scale = scale * 2
    return total


def last_kept(m: Mixture, x: Tensor) -> Tensor:
    _, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
    kept: Tensor = m.gain
    for place in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        _, token = torch.where(mask[place[0]])
        total.index_add_(0, token, m.expert(x[token], place[0]))
        kept = m.gain * float(place[0])
    return total * kept


def empty_ones_add(m: Mixture, x: Tensor) -> Tensor:
    _, numbers = m.route(x)
    mask, total = F.one_hot(numbers, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
    for place in torch.greater(mask.sum(dim=(-1, -2)) + 1, 0).nonzero():
        _, token = torch.where(mask[place[0]])
        if token.numel() == 0:
            total = total + 1
            continue
        total = total.index_add(0, token, m.expert(x[token], place[0]))
    return total


def how_many_are_hit(m: Mixture, x: Tensor) -> Tensor:
    _, numbers = m.route(x)
    hit = torch.greater(F.one_hot(numbers, EXPERTS).permute(2, 1, 0).sum(dim=(-1, -2)), 0).nonzero()
    return x * len(hit)


def add_for(m: Mixture, x: Tensor, number: int, mask: Tensor, total: Tensor) -> Tensor:
    _, token = torch.where(mask[number])
    return total.index_add(0, token, m.expert(x[token], number))


MORE: dict[str, Callable[[Mixture, Tensor], Tensor]] = {
    "counts iterations": counted,
    "carries a value": carried,
    "keeps the last value": last_kept,
    "adds where nothing is chosen": empty_ones_add,
    "asks how many are hit": how_many_are_hit,
    "adds to all tokens": loop(lambda m, x, e, mask, token, total: total + m.expert(x, e)),
    "adds to the tokens of another": loop(
        lambda m, x, e, mask, token, total: total.index_add(
            0,
            torch.where(mask[(int(e) + 1) % EXPERTS])[1],
            m.expert(x[torch.where(mask[(int(e) + 1) % EXPERTS])[1]], e),
        )
    ),
    "adds to the tokens of another as well": loop(
        lambda m, x, e, mask, token, total: add_for(
            m, x, int(e), mask, add_for(m, x, (int(e) + 1) % EXPERTS, mask, total)
        )
    ),
    "adds to a token that was not chosen": loop(
        lambda m, x, e, mask, token, total: add_for(
            m, x, int(e), mask, total.index_add(0, torch.zeros(1, dtype=torch.int64), m.expert(x[:1], e))
        )
    ),
    "reads the sum": loop(
        lambda m, x, e, mask, token, total: total.index_add(0, token, m.expert(x[token] + total[token], e))
    ),
    "mixes rows": loop(lambda m, x, e, mask, token, total: total.index_add(0, token, m.expert(x[token], e).softmax(0))),
    "mixes rows of all": loop(
        lambda m, x, e, mask, token, total: total.index_add(0, token, m.expert(x[token], e).softmax(0)), over="all"
    ),
    "counts tokens": loop(
        lambda m, x, e, mask, token, total: total.index_add(0, token, m.expert(x[token], e) / token.shape[0])
    ),
    "computes with places": loop(
        lambda m, x, e, mask, token, total: total.index_add(0, token, m.expert(x[token], e) * token[:, None])
    ),
    "picks neighbours": loop(
        lambda m, x, e, mask, token, total: total.index_add(0, token, m.expert(x[(token - 1).clamp(min=0)], e))
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_a_loop_that_does_more_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        models.rewrite(mixture(MORE[name]))
