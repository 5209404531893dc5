"""Stick-breaking attention: a key gets a share of what the later keys have left (Tan et al., 2024)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from autoconvert import ops
from autoconvert.pattern import Pattern


class StickBreaking(nn.Module):
    def __init__(self, dim: int = 20, n_head: int = 2) -> None:
        super().__init__()
        self.n_head, self.scale = n_head, (dim // n_head) ** -0.5
        self.c_attn = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in self.c_attn(x).chunk(3, dim=2))
        z = (q @ k.transpose(2, 3)) * self.scale
        seen = torch.tril(torch.ones(T, T, dtype=torch.bool))
        left = logsigmoid(-z).masked_fill(~seen, 0.0)
        later = left.flip(-1).cumsum(-1).flip(-1) - left
        share = torch.exp(logsigmoid(z) + later).masked_fill(~seen, 0.0)
        return (share @ v).transpose(1, 2).reshape(B, T, C)


class StickDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(53, 20)
        self.attn, self.mlp, self.out = StickBreaking(), nn.Linear(20, 20), nn.Linear(20, 53, bias=False)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.emb(idx)
        x = x + self.attn(x)
        return self.out(x + self.mlp(x).tanh())


def broken(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    z = (q @ k.transpose(2, 3)) * scale
    left = logsigmoid(-z).masked_fill(~seen, 0.0)
    later = left.flip(-1).cumsum(-1).flip(-1) - left
    return torch.exp(logsigmoid(z) + later).masked_fill(~seen, 0.0) @ v


def counted_from_the_left(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    z = (q @ k.mT) * scale
    left = torch.where(seen, logsigmoid(-z), 0.0)
    later = left.sum(-1, keepdim=True) - left.cumsum(-1)
    return torch.where(seen, torch.exp(logsigmoid(z) + later), 0.0) @ v


STICK = ops.operation(counted_from_the_left)
SIZES: dict[str, tuple[int, ...] | Tensor | float] = {
    "q": (1, 3, 5, 14),
    "k": (1, 3, 5, 14),
    "v": (1, 3, 5, 22),
    "seen": torch.ones(5, 5).tril() > 0,
    "scale": 0.3,
}
PATTERNS = (Pattern("stick_breaking", "attention", broken, STICK, SIZES, operations=(STICK,)),)
