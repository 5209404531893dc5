"""Experts in a loop, each for the tokens that chose it, found by torch.where; grouped heads and a table of rotary."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MoE(nn.Module):
    """`n_act` of the experts for each token, with renewed probabilities."""

    def __init__(self, width: int, n_expert: int, n_act: int) -> None:
        super().__init__()
        self.n_act = n_act
        self.gate = nn.Linear(width, n_expert, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 48, bias=False), nn.SiLU(), nn.Linear(48, width, bias=False))
            for _ in range(n_expert)
        )

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        x = x.view(-1, C)
        probs, indices = torch.topk(self.gate(x), self.n_act)
        probs = probs.softmax(dim=1, dtype=torch.float).to(dtype=x.dtype)
        masks = indices.unsqueeze(-1) == torch.arange(len(self.experts), device=x.device)
        masks = masks.permute(2, 0, 1)
        y = torch.zeros_like(x)
        for mask, expert in zip(masks, self.experts, strict=True):
            token_idx, expert_idx = torch.where(mask)
            y[token_idx] += probs[token_idx, expert_idx, None] * expert(x[token_idx])
        return y.view(B, T, C)


class LoopedExperts(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, vocabulary: int = 53, width: int = 32, head_size: int = 8) -> None:
        super().__init__()
        self.head_size = head_size
        self.wte = nn.Embedding(vocabulary, width)
        turns = torch.outer(torch.arange(64), 100.0 ** -(torch.arange(0, head_size, 2) / head_size)).repeat(1, 2)
        self.register_buffer("cos", turns.cos(), persistent=False)
        self.register_buffer("sin", turns.sin(), persistent=False)
        self.q, self.o = (nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2)) for _ in range(2))
        self.kv = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        self.moe = nn.ModuleList(MoE(width, 4, 2) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-5) for _ in range(5))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def turn(self, x: Tensor) -> Tensor:
        half = self.head_size // 2
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin

    def forward(self, tokens: Tensor) -> Tensor:
        B, T = tokens.shape
        x = self.wte(tokens)
        for index, moe in enumerate(self.moe):
            y = self.norms[2 * index](x)
            q = self.q[index](y).view(B, T, -1, self.head_size).transpose(1, 2)
            k, v = self.kv[index](y).view(B, T, -1, 2 * self.head_size).transpose(1, 2).chunk(2, dim=-1)
            y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True, enable_gqa=True)
            x = x + self.o[index](y.transpose(1, 2).reshape(B, T, -1))
            x = x + moe(self.norms[2 * index + 1](x))
        return self.lm_head(self.norms[-1](x))
