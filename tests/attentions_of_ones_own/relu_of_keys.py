"""ReLU² in the place of the softmax, a column of strengths for each query (So et al., 2021, and Shen et al., 2023)."""

import torch
from torch import Tensor, nn

from autoconvert import ops
from autoconvert.pattern import Pattern

WIDTH, HEADS = 24, 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = (t.reshape(*h.shape[:2], HEADS, -1).permute(0, 2, 1, 3) for t in self.qkv(h).split(WIDTH, dim=-1))
        past = torch.ones(h.shape[1], h.shape[1]).triu()
        a = torch.relu(k.matmul(q.transpose(-1, -2))) ** 2 * past
        a = a / (a.sum(dim=-2, keepdim=True) + 1e-3)
        return h + self.proj(torch.einsum("bhkq,bhkd->bqhd", a, v).flatten(2))


class ReluOfKeys(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.blocks = nn.Embedding(53, WIDTH), nn.ModuleList(Block() for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.wte(ids)
        for block in self.blocks:
            h = block(h)
        return h @ self.wte.weight.T


def keys_first(q: Tensor, k: Tensor, v: Tensor, past: Tensor, least: float) -> Tensor:
    a = torch.relu(k.matmul(q.transpose(-1, -2))) ** 2 * past
    return torch.einsum("bhkq,bhkd->bqhd", a / (a.sum(dim=-2, keepdim=True) + least), v)


def relu_attention(q: Tensor, k: Tensor, v: Tensor, past: Tensor, least: float) -> Tensor:
    a = torch.relu(q @ k.mT).square() * past.mT
    return (a / (a.sum(-1, keepdim=True) + least) @ v).transpose(1, 2)


RELU = ops.operation(relu_attention)
SIZES: dict[str, tuple[int, ...] | Tensor | float] = {
    "q": (1, 3, 5, 14),
    "k": (1, 3, 5, 14),
    "v": (1, 3, 5, 22),
    "past": (5, 5),
    "least": 0.01,
}
PATTERNS = (Pattern("relu_of_keys", "attention", keys_first, RELU, SIZES, operations=(RELU,)),)
