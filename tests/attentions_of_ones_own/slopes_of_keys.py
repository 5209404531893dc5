"""Learned slopes of the distances (ALiBi's, Press et al., 2022), under scores with keys first."""

import math

import torch
from torch import Tensor, nn

from autoconvert import ops
from autoconvert.pattern import Pattern


class LearnedSlopes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(53, 24)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(24, 24), nn.Linear(24, 8), nn.Linear(24, 8)
        self.slopes = nn.Parameter(torch.tensor([0.5, 0.25, 0.125]))
        self.lm_head = nn.Linear(24, 53)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embedding(input_ids)
        queries = self.q_proj(hidden).unflatten(2, (3, 8))
        keys, values = self.k_proj(hidden), self.v_proj(hidden)
        steps = torch.arange(hidden.shape[1])
        gap = (steps[None, :] - steps[:, None]).to(hidden.dtype)
        scores = torch.einsum("bkd,bqhd->bhkq", keys, queries) / math.sqrt(8) - self.slopes[:, None, None] * gap
        weights = torch.softmax(scores.masked_fill(gap < 0, -1e9), dim=2)
        mixed = torch.einsum("bhkq,bkd->bqhd", weights, values)
        return self.lm_head(hidden + mixed.flatten(2))


def sloped(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, gap: Tensor, later: Tensor, scale: float) -> Tensor:
    scores = torch.einsum("bkd,bqhd->bhkq", k, q) * scale - slopes[:, None, None] * gap
    return torch.einsum("bhkq,bkd->bqhd", torch.softmax(scores.masked_fill(later, -1e9), dim=2), v)


def attention(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, gap: Tensor, later: Tensor, scale: float) -> Tensor:
    mask = (-slopes[:, None, None] * gap.mT).masked_fill(later.mT, -1e9)[None]
    return ops.attention(q.transpose(1, 2), k[:, None], v[:, None], mask, scale, causal=False).transpose(1, 2)


SIZES: dict[str, tuple[int, ...] | Tensor | float] = {
    "q": (1, 5, 3, 14),
    "k": (1, 9, 14),
    "v": (1, 9, 22),
    "slopes": (3,),
    "gap": (9, 5),
    "later": torch.ones(9, 5).tril() > 0,
    "scale": 0.3,
}
PATTERNS = (Pattern("slopes_of_keys", "attention", sloped, attention, SIZES),)
