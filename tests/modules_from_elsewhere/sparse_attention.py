"""Only the largest scores of a row count: normed queries and keys, positions of sines, and a gate of ReLU."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(length: int, channels: int) -> Tensor:
    """First half sines, second half cosines."""
    increment = math.log(10_000) / (channels // 2 - 1)
    inverse = torch.exp(-increment * torch.arange(channels // 2))
    scaled = torch.arange(length)[:, None] * inverse[None]
    return torch.cat([torch.sin(scaled), torch.cos(scaled)], dim=1)


class SparseAttention(nn.Module):
    """Scores below the k-th largest of their row are dropped."""

    def __init__(self, dim: int, dim_head: int, heads: int, topk: int) -> None:
        super().__init__()
        self.heads, self.topk = heads, topk
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, dim_head * heads * 2, bias=False)
        self.q_norm, self.k_norm = nn.LayerNorm(dim_head), nn.LayerNorm(dim_head)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            t.reshape(b, n, self.heads, -1).transpose(1, 2) for t in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )
        q, k = self.q_norm(q), self.k_norm(k)
        dots = torch.einsum("b h i d, b h j d -> b h i j", q, k) * q.shape[-1] ** -0.5
        mask = torch.ones((n, n), dtype=torch.bool, device=x.device).triu_(1)
        dots.masked_fill_(mask, -torch.finfo(dots.dtype).max)
        top, _ = dots.topk(min(self.topk, n), dim=-1)
        dots = dots.masked_fill(dots < top[..., -1:], -torch.finfo(dots.dtype).max)
        out = torch.einsum("b h i j, b h j d -> b h i d", dots.softmax(dim=-1), v)
        return self.to_out(out.transpose(1, 2).flatten(2))


class ReGLU(nn.Module):
    """A value times the ReLU of a gate, both of one projection."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(value * F.relu(gate))


class SparseDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    pos: Tensor

    def __init__(self, vocabulary: int = 53, dim: int = 32) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(vocabulary, dim)
        self.register_buffer("pos", sinusoids(64, dim), persistent=False)
        self.attend = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), SparseAttention(dim, 8, 4, 5)) for _ in range(2))
        self.feed = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), ReGLU(dim, 48)) for _ in range(2))
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_emb(tokens)
        x = x + self.pos[torch.arange(x.shape[1], device=x.device)]
        for attend, feed in zip(self.attend, self.feed, strict=True):
            x = attend(x) + x
            x = feed(x) + x
        return self.to_logits(x)
