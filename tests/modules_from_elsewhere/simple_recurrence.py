"""Recurrences without a library: averages that decay, in a loop over the text; a gated unit, by running sums."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DecayingAverage(nn.Module):
    """Each channel forgets at a rate of its own; the loop takes one token after another."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inp, self.gate, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.log_decay = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        decay = torch.sigmoid(self.log_decay)
        inp = self.inp(x)
        state, outs = torch.zeros_like(inp[:, 0]), []
        for t in range(x.shape[1]):
            state = decay * state + (1 - decay) * inp[:, t]
            outs.append(state)
        return self.out(torch.stack(outs, dim=1) * F.silu(self.gate(x)))


class LoopedAverages(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, dim: int = 32) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(DecayingAverage(dim) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + layer(norm(x))
        return self.head(self.norms[-1](x))


def log_g(x: Tensor) -> Tensor:
    """The logarithm of what is positive and continuous: x + 1/2 or a sigmoid."""
    return torch.where(x >= 0, (F.relu(x) + 0.5).log(), -F.softplus(-x))


class MinGRU(nn.Module):
    """A gated unit whose gates know no state, as one scan in logarithms."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(dim, dim * 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.to_hidden_and_gate(x).chunk(2, dim=-1)
        log_coeffs = -F.softplus(gate)
        log_values = -F.softplus(-gate) + log_g(hidden)
        a_star = log_coeffs.cumsum(dim=1)
        return (a_star + (log_values - a_star).logcumsumexp(dim=1)).exp()


class LogarithmicScan(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, dim: int = 32) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(vocabulary, dim)
        self.grus = nn.ModuleList(MinGRU(dim) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(5))
        self.ffs = nn.ModuleList(nn.Sequential(nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, dim)) for _ in range(2))
        self.to_logits = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_emb(tokens)
        for index, (gru, ff) in enumerate(zip(self.grus, self.ffs, strict=True)):
            x = gru(self.norms[2 * index](x)) + x
            x = ff(self.norms[2 * index + 1](x)) + x
        return self.to_logits(self.norms[-1](x))
