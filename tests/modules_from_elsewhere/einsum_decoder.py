"""Attention as Einstein sums over heads that are axes of the weights, a triangular buffer, sinusoidal positions."""

import math

import torch
from torch import Tensor, nn


class EinsumAttention(nn.Module):
    mask: Tensor

    def __init__(self, d_model: int, n_heads: int, d_head: int, n_ctx: int) -> None:
        super().__init__()
        self.W_Q = nn.Parameter(torch.randn(n_heads, d_model, d_head) / d_model**0.5)
        self.W_K = nn.Parameter(torch.randn(n_heads, d_model, d_head) / d_model**0.5)
        self.W_V = nn.Parameter(torch.randn(n_heads, d_model, d_head) / d_model**0.5)
        self.W_O = nn.Parameter(torch.randn(n_heads, d_head, d_model) / d_model**0.5)
        self.b_Q = nn.Parameter(torch.randn(n_heads, d_head))
        self.b_O = nn.Parameter(torch.randn(d_model))
        self.register_buffer("mask", torch.tril(torch.ones(n_ctx, n_ctx)).bool())

    def forward(self, x: Tensor) -> Tensor:
        s = x.shape[1]
        q = torch.einsum("bsd,hde->bshe", x, self.W_Q) + self.b_Q
        k = torch.einsum("bsd,hde->bshe", x, self.W_K)
        v = torch.einsum("bsd,hde->bshe", x, self.W_V)
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.mask[:s, :s], float("-inf"))
        z = torch.einsum("bhqk,bkhe->bqhe", scores.softmax(dim=-1), v)
        return torch.einsum("bqhe,hed->bqd", z, self.W_O) + self.b_O


class HandmadeLayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(dim=-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.w + self.b


def new_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class EinsumDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    positions: Tensor

    def __init__(self, vocabulary: int = 53, d_model: int = 16, n_heads: int = 2, n_ctx: int = 64) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.randn(vocabulary, d_model))
        angles = torch.arange(n_ctx)[:, None] / 10000 ** (torch.arange(0, d_model, 2) / d_model)
        table = torch.zeros(n_ctx, d_model)
        table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
        self.register_buffer("positions", table)
        self.norms = nn.ModuleList(HandmadeLayerNorm(d_model) for _ in range(4))
        self.attentions = nn.ModuleList(EinsumAttention(d_model, n_heads, d_model // n_heads, n_ctx) for _ in range(2))
        self.W_in = nn.ParameterList(torch.randn(d_model, 32) / 4 for _ in range(2))
        self.W_out = nn.ParameterList(torch.randn(32, d_model) / 6 for _ in range(2))
        self.W_U = nn.Parameter(torch.randn(d_model, vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.W_E[tokens] * math.sqrt(self.W_E.shape[1]) + self.positions[: tokens.shape[1]]
        for layer in range(2):
            x = x + self.attentions[layer](self.norms[2 * layer](x))
            hidden = new_gelu(torch.einsum("bsd,df->bsf", self.norms[2 * layer + 1](x), self.W_in[layer]))
            x = x + torch.einsum("bsf,fd->bsd", hidden, self.W_out[layer])
        return torch.einsum("bsd,dv->bsv", x, self.W_U)
