"""Windows whose mask Python builds from the length, in every other layer; capped scores, or normed queries and keys."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Its weight is what is added to one."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.float()
        x_normed = x * torch.rsqrt(torch.mean(x * x, dim=-1, keepdim=True) + self.eps)
        return (x_normed * (1 + self.weight)).to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + rotated * sin


def rope_table(length: int, width: int, base: int) -> tuple[Tensor, Tensor]:
    theta = 1.0 / (base ** (torch.arange(0, width, 2).float() / width))
    turns = torch.outer(torch.arange(length), theta).repeat(1, 2)
    return torch.cos(turns), torch.sin(turns)


class WindowAttention(nn.Module):
    """One projection in groups of queries, a key and a value; a window in layers with an even number."""

    def __init__(self, config: dict[str, Any], block_idx: int) -> None:
        super().__init__()
        self.config, self.windowed = config, block_idx % config["window_every"] == 0
        groups, size = config["n_query_groups"], config["head_size"]
        self.q_per_kv = config["n_head"] // groups
        self.attn = nn.Linear(config["n_embd"], (config["n_head"] + 2 * groups) * size, bias=False)
        self.proj = nn.Linear(config["n_head"] * size, config["n_embd"], bias=False)
        self.norm_q, self.norm_k = (RMSNorm(size) if config["norm_qk"] else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.size()
        size = self.config["head_size"]
        qkv = self.attn(x).view(B, T, self.config["n_query_groups"], self.q_per_kv + 2, size).permute(0, 2, 3, 1, 4)
        q, k, v = qkv.split((self.q_per_kv, 1, 1), dim=2)
        k, v = (t.expand(-1, -1, self.q_per_kv, -1, -1) for t in (k, v))
        q, k, v = (t.reshape(B, -1, T, size) for t in (q, k, v))
        q, k = apply_rope(self.norm_q(q), cos, sin), apply_rope(self.norm_k(k), cos, sin)
        mask = None
        if self.windowed:
            mask = torch.ones(T, T, dtype=q.dtype, device=q.device).triu(diagonal=1)
            mask.masked_fill_(mask.bool(), float("-inf"))
            bias = torch.ones_like(mask).tril(diagonal=-self.config["window"])
            bias.masked_fill_(bias.bool(), float("-inf"))
            mask += bias
        y = self.attend(q, k, v, mask)
        return self.proj(y.reshape(B, T, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scale = 1.0 / math.sqrt(self.config["attention_scalar"])
        cap = self.config["softcap"]
        if cap is None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, is_causal=mask is None)
            return y.transpose(1, 2)
        scores = q @ k.mT * scale
        scores = torch.tanh(scores / cap) * cap
        if mask is None:
            mask = torch.ones(q.size(2), q.size(2), dtype=q.dtype, device=q.device).triu(diagonal=1)
            mask.masked_fill_(mask.bool(), torch.finfo(q.dtype).min)
        scores = F.softmax(scores + mask, dim=-1, dtype=torch.float).to(dtype=q.dtype)
        return (scores @ v).transpose(1, 2)


class WindowDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, **changes: Any) -> None:
        super().__init__()
        sizes = {"n_embd": 32, "n_head": 4, "n_query_groups": 2, "head_size": 8, "n_layer": 2, "window": 6}
        self.config = {**sizes, "attention_scalar": 16, "window_every": 2, "softcap": 5.0, "norm_qk": False, **changes}
        n_embd, layers = self.config["n_embd"], range(self.config["n_layer"])
        self.wte = nn.Embedding(vocabulary, n_embd)
        self.attn = nn.ModuleList(WindowAttention(self.config, index) for index in layers)
        self.fc_1, self.fc_2 = (nn.ModuleList(nn.Linear(n_embd, 48, bias=False) for _ in layers) for _ in range(2))
        self.proj = nn.ModuleList(nn.Linear(48, n_embd, bias=False) for _ in layers)
        self.norms = nn.ModuleList(RMSNorm(n_embd) for _ in range(4 * len(layers) + 1))
        self.lm_head = nn.Linear(n_embd, vocabulary, bias=False)

    def turns(self, length: int, index: int) -> tuple[Tensor, Tensor]:
        return rope_table(length, self.config["head_size"], 10000)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) * torch.tensor(self.config["n_embd"] ** 0.5)
        for index, attn in enumerate(self.attn):
            before, after, ff_before, ff_after = self.norms[4 * index : 4 * index + 4]
            x = after(attn(before(x), *self.turns(tokens.shape[1], index))) + x
            y = ff_before(x)
            y = self.proj[index](F.gelu(self.fc_1[index](y), approximate="tanh") * self.fc_2[index](y))
            x = ff_after(y) + x
        x = self.lm_head(self.norms[-1](x))
        cap = self.config["softcap"]
        return x if cap is None else torch.tanh(x / cap) * cap


class NormedWindows(WindowDecoder):
    """Normed queries and keys, no caps, another base of the rotary where there is no window; a tied head."""

    def __init__(self, vocabulary: int = 53) -> None:
        super().__init__(vocabulary, softcap=None, norm_qk=True)
        self.lm_head.weight = self.wte.weight

    def turns(self, length: int, index: int) -> tuple[Tensor, Tensor]:
        return rope_table(length, self.config["head_size"], 100 if self.attn[index].windowed else 10000)
