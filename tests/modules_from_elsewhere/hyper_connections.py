"""Several residual streams, read and written by learned and by computed weights; attention and MLP side by side."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HyperConnection(nn.Module):
    """Streams after a branch: it reads one mixture of them and is added to the others (Zhu et al., 2024)."""

    def __init__(self, dim: int, rate: int, layer: int) -> None:
        super().__init__()
        self.rate, self.norm = rate, nn.LayerNorm(dim)
        self.static_beta = nn.Parameter(torch.ones(rate))
        alpha = torch.cat([torch.eye(rate)[layer % rate][:, None], torch.eye(rate)], dim=1)
        self.static_alpha = nn.Parameter(alpha)
        self.dynamic_alpha_fn = nn.Parameter(torch.randn(dim, rate + 1) * 0.02)
        self.dynamic_beta_fn = nn.Parameter(torch.randn(dim) * 0.02)
        self.scale = nn.Parameter(torch.ones(2) * 0.1)

    def forward(self, h: Tensor, branch: nn.Module) -> Tensor:
        normed = self.norm(h)
        alpha = torch.tanh(normed @ self.dynamic_alpha_fn) * self.scale[0] + self.static_alpha[None, None]
        beta = torch.tanh(normed @ self.dynamic_beta_fn) * self.scale[1] + self.static_beta[None, None]
        mixed = alpha.transpose(-1, -2) @ h
        return torch.einsum("bld,bln->blnd", branch(mixed[..., 0, :]), beta) + mixed[..., 1:, :]


class ParallelBranch(nn.Module):
    """Attention and a feed-forward of the same input, added."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = nn.Linear(dim, 3 * dim + 2 * dim, bias=False)
        self.out = nn.Linear(dim + dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        dim = x.shape[-1]
        q, k, v, gate, up = self.fused(x).split((dim,) * 5, dim=-1)
        q, k, v = (t.unflatten(2, (self.heads, dim // self.heads)).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.out(torch.cat([attended, F.silu(gate) * up], dim=-1))


class HyperDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 4, rate: int = 3) -> None:
        super().__init__()
        self.rate = rate
        self.embed = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(1, 64, dim) * 0.02)
        self.connections = nn.ModuleList(HyperConnection(dim, rate, layer) for layer in range(2))
        self.branches = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), ParallelBranch(dim, heads)) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions[:, : tokens.shape[1]]
        streams = x.unsqueeze(2).repeat(1, 1, self.rate, 1)
        for connection, branch in zip(self.connections, self.branches, strict=True):
            streams = connection(streams, branch)
        return self.head(self.norm(streams.sum(dim=2)))
