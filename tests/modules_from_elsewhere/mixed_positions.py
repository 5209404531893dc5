"""No queries meet keys: tokens are mixed by a learned matrix of positions, or by weights of their own times such."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpatialGate(nn.Module):
    """Half of the channels, mixed over the text so far, gates the other half (gMLP, 2021)."""

    def __init__(self, dim: int, longest: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim // 2)
        self.weight, self.bias = nn.Parameter(torch.randn(longest, longest) * 0.1), nn.Parameter(torch.ones(longest))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        res, gate = x.chunk(2, dim=-1)
        gate = self.norm(gate)
        weight, bias = self.weight[:n, :n], self.bias[:n]
        mask = torch.ones(weight.shape, device=x.device).triu_(1).bool()
        weight = weight.masked_fill(mask, 0.0)
        gate = torch.einsum("b n d, m n -> b m d", gate, weight) + bias[None, :, None]
        return gate * res


class SpatialGating(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, dim: int = 32) -> None:
        super().__init__()
        self.to_embed = nn.Embedding(vocabulary, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.proj_in, self.proj_out = (
            nn.ModuleList(nn.Linear(*sizes) for _ in range(2)) for sizes in ((dim, 64), (32, dim))
        )
        self.gates = nn.ModuleList(SpatialGate(64, 64) for _ in range(2))
        self.to_logits = nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.to_embed(tokens)
        for norm, proj_in, gate, proj_out in zip(self.norms, self.proj_in, self.gates, self.proj_out, strict=False):
            x = x + proj_out(gate(F.gelu(proj_in(norm(x)))))
        return self.to_logits(self.norms[-1](x))


class AttentionFree(nn.Module):
    """Keys as weights of values, times a learned weight for each pair of positions (Zhai et al., 2021)."""

    def __init__(self, dim: int, hidden_dim: int, max_seqlen: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, hidden_dim) for _ in range(3))
        self.project = nn.Linear(hidden_dim, dim)
        self.wbias = nn.Parameter(torch.randn(max_seqlen, max_seqlen) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        _, T, _ = x.shape
        Q, K, V = self.to_q(x), self.to_k(x), self.to_v(x)
        weights = torch.exp(self.wbias[:T, :T]).tril().unsqueeze(0)
        numerator = weights @ torch.mul(torch.exp(K), V)
        denominator = weights @ torch.exp(K)
        return self.project(torch.mul(torch.sigmoid(Q), numerator / denominator))


class AttentionFreeDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, dim: int = 32) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(64, dim)
        self.mixers = nn.ModuleList(AttentionFree(dim, 24, 64) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.ffs = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 64), nn.LeakyReLU(), nn.Linear(64, dim)) for _ in range(2)
        )
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for layer in range(2):
            x = x + self.mixers[layer](self.norms[2 * layer](x))
            x = x + self.ffs[layer](self.norms[2 * layer + 1](x))
        return self.head(x)
