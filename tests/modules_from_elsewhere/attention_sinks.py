"""A learned number takes part in each softmax and nothing follows it; windows in every other layer; grouped heads."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class SinkConfig:
    """Sizes of the decoder."""

    vocab_size: int
    hidden_size: int = 32
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 8
    sliding_window: int = 6
    intermediate_size: int = 48
    swiglu_limit: float = 3.0
    rope_theta: float = 500.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Halves turned together; x is [batch, length, ..., head_dim]."""
    shape = [1, cos.shape[0]] + [1] * (x.ndim - 3) + [cos.shape[1]]
    cos, sin = cos.view(shape), sin.view(shape)
    x1, x2 = torch.chunk(x, 2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


class SinkAttention(nn.Module):
    """Queries [batch, length, groups, heads in a group, width] by one Einstein sum."""

    def __init__(self, config: SinkConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.window = config.sliding_window if layer_idx % 2 == 0 else 0
        self.sinks = nn.Parameter(torch.randn(config.num_attention_heads))
        self.norm = nn.RMSNorm(config.hidden_size, eps=1e-5)
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.qkv = nn.Linear(config.hidden_size, width * (heads + 2 * groups))
        self.out = nn.Linear(heads * width, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        groups, width = self.config.num_key_value_heads, self.config.head_dim
        per_group = self.config.num_attention_heads // groups
        qkv = self.qkv(self.norm(x))
        q, k, v = qkv.split([groups * per_group * width, groups * width, groups * width], dim=-1)
        q = rotate(q.view(batch, length, groups, per_group, width), cos, sin)
        k = rotate(k.view(batch, length, groups, width), cos, sin)
        v = v.view(batch, length, groups, width)
        qk = torch.einsum("bqgmd,bkgd->bgmqk", q, k) * width**-0.5
        mask = torch.triu(qk.new_full((length, length), -float("inf")), diagonal=1)
        if self.window > 0:
            mask += torch.tril(mask.new_full((length, length), -float("inf")), diagonal=-self.window)
        qk = qk + mask
        sinks = self.sinks.reshape(1, groups, per_group, 1, 1).expand(batch, -1, -1, length, -1)
        weights = torch.softmax(torch.cat([qk, sinks], dim=-1), dim=-1)[..., :-1]
        attn = torch.einsum("bgmqk,bkgd->bqgmd", weights, v)
        return x + self.out(attn.reshape(batch, length, -1))


def swiglu(x: Tensor, limit: float) -> Tensor:
    """Neighbours are gate and value, both clamped."""
    gate, linear = x[..., ::2], x[..., 1::2]
    gate = gate.clamp(min=None, max=limit)
    return gate * torch.sigmoid(1.702 * gate) * (linear.clamp(-limit, limit) + 1)


class SinkDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53) -> None:
        super().__init__()
        self.config = config = SinkConfig(vocabulary)
        self.embedding = nn.Embedding(vocabulary, config.hidden_size)
        self.attn = nn.ModuleList(SinkAttention(config, index) for index in range(2))
        self.mlp_norm = nn.ModuleList(nn.RMSNorm(config.hidden_size) for _ in range(2))
        self.mlp1 = nn.ModuleList(nn.Linear(config.hidden_size, 2 * config.intermediate_size) for _ in range(2))
        self.mlp2 = nn.ModuleList(nn.Linear(config.intermediate_size, config.hidden_size) for _ in range(2))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.unembedding = nn.Linear(config.hidden_size, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        width = self.config.head_dim
        inv_freq = self.config.rope_theta ** -(torch.arange(0, width, 2, dtype=torch.float) / width)
        freqs = torch.einsum("i,j->ij", torch.arange(tokens.shape[1], dtype=torch.float32), inv_freq)
        x = self.embedding(tokens)
        for index, attn in enumerate(self.attn):
            x = attn(x, freqs.cos(), freqs.sin())
            hidden = swiglu(self.mlp1[index](self.mlp_norm[index](x)), self.config.swiglu_limit)
            x = x + self.mlp2[index](hidden)
        return self.unembedding(self.norm(x))
