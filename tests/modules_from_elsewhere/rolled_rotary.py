"""Rotary without a concatenation: queries are rolled by half their width, keys are turned by a matrix of signs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RolledRotary(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    quarter: Tensor

    def __init__(self, vocabulary: int = 53, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.pairs = heads, width // heads // 2
        self.embed = nn.Embedding(vocabulary, width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        ones = torch.ones(self.pairs)
        self.register_buffer("quarter", torch.diag(ones, self.pairs) - torch.diag(ones, -self.pairs), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        angles = torch.arange(tokens.shape[1])[:, None] / 50.0 ** torch.linspace(0, 1, self.pairs)
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        signed = torch.cat((-angles.sin(), angles.sin()), -1)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = (torch.unflatten(each, -1, (self.heads, -1)).transpose(1, 2) for each in qkv(x).chunk(3, -1))
            q = q * cos + torch.roll(q, self.pairs, dims=-1) * signed
            k = k * cos + torch.matmul(k, self.quarter) * sin
            x = x + out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x @ self.embed.weight.T
