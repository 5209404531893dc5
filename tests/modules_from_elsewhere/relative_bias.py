"""Biases by distance that a module computes from lengths: in buckets as T5 has them, and as keys for each distance."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class T5Norm(nn.Module):
    """A root-mean-square norm in float32, without a mean or a bias."""

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


def bucket_of(distance: Tensor, buckets: int, longest: int) -> Tensor:
    """Near distances have buckets of their own, far ones share them by logarithm."""
    distance = torch.clamp(-distance, min=0)
    exact = buckets // 2
    large = exact + (torch.log(distance.float() / exact) / math.log(longest / exact) * (buckets - exact)).to(torch.long)
    large = torch.min(large, torch.full_like(large, buckets - 1))
    return torch.where(distance < exact, distance, large)


class BucketAttention(nn.Module):
    """Unscaled attention; the bias of the first layer serves all."""

    def __init__(self, d_model: int, d_kv: int, n_heads: int) -> None:
        super().__init__()
        inner = n_heads * d_kv
        self.n_heads, self.d_kv = n_heads, d_kv
        self.q, self.k, self.v = (nn.Linear(d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, d_model, bias=False)
        self.norm = T5Norm(d_model)

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        y = self.norm(x)
        batch, length = y.shape[:2]
        q, k, v = (
            layer(y).view(batch, -1, self.n_heads, self.d_kv).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        scores = torch.matmul(q, k.transpose(3, 2))
        scores += position_bias
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        return x + self.o(torch.matmul(weights, v).transpose(1, 2).contiguous().view(batch, length, -1))


class RelativeBuckets(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary] of a tied, scaled head."""

    def __init__(self, vocabulary: int = 53, d_model: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.shared = nn.Embedding(vocabulary, d_model)
        self.relative_attention_bias = nn.Embedding(8, n_heads)
        self.attentions = nn.ModuleList(BucketAttention(d_model, 6, n_heads) for _ in range(2))
        self.norms = nn.ModuleList(T5Norm(d_model) for _ in range(3))
        self.wi_0, self.wi_1, self.wo = (
            nn.ModuleList(nn.Linear(*sizes, bias=False) for _ in range(2))
            for sizes in ((d_model, 64), (d_model, 64), (64, d_model))
        )

    def compute_bias(self, query_length: int, key_length: int) -> Tensor:
        context_position = torch.arange(query_length, dtype=torch.long)[:, None]
        memory_position = torch.arange(key_length, dtype=torch.long)[None, :]
        buckets = bucket_of(memory_position - context_position, 8, 20)
        return self.relative_attention_bias(buckets).permute([2, 0, 1]).unsqueeze(0)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        ids = torch.arange(length)
        causal = (ids[None, None, :].repeat(1, length, 1) <= ids[None, :, None]).float()
        bias = self.compute_bias(length, length) + (1.0 - causal[:, None]) * torch.finfo(torch.float32).min
        x = self.shared(tokens)
        for attention, norm, gate, up, down in zip(
            self.attentions, self.norms, self.wi_0, self.wi_1, self.wo, strict=False
        ):
            x = attention(x, bias)
            y = norm(x)
            x = x + down(F.gelu(gate(y), approximate="tanh") * up(y))
        x = self.norms[2](x) * self.shared.weight.shape[1] ** -0.5
        return F.linear(x, self.shared.weight)


class RelativeKeys(nn.Module):
    """Keys and values for each clipped distance (Shaw et al., 2018), with residuals that grow from zero."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 2, clip: int = 6) -> None:
        super().__init__()
        self.heads, self.clip, self.head_dim = heads, clip, dim // heads
        self.emb = nn.Embedding(vocabulary, dim)
        self.to_qkv = nn.ModuleList(nn.Linear(dim, dim * 3, bias=False) for _ in range(2))
        self.rel_k, self.rel_v = (
            nn.ParameterList(torch.randn(2 * clip + 1, dim // heads) for _ in range(2)) for _ in range(2)
        )
        self.to_out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))
        self.alpha = nn.ParameterList(torch.zeros(1) for _ in range(2))
        self.ff = nn.ModuleList(nn.Sequential(nn.Linear(dim, 64), nn.Mish(), nn.Linear(64, dim)) for _ in range(2))
        self.to_logits = nn.Linear(dim, vocabulary)

    def attention(self, x: Tensor, layer: int) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.to_qkv[layer](x).view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        places = torch.arange(n, device=x.device)
        distance = torch.clamp(places[None] - places[:, None], -self.clip, self.clip) + self.clip
        keys, values = self.rel_k[layer][distance], self.rel_v[layer][distance]
        dots = torch.einsum("bhid,bhjd->bhij", q, k) + torch.einsum("bhid,ijd->bhij", q, keys)
        dots = (dots / self.head_dim**0.5).masked_fill(places[None] > places[:, None], -torch.finfo(dots.dtype).max)
        attn = dots.softmax(dim=-1)
        out = torch.einsum("bhij,bhjd->bhid", attn, v) + torch.einsum("bhij,ijd->bhid", attn, values)
        return self.to_out[layer](out.transpose(1, 2).reshape(b, n, d))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        for layer in range(2):
            x = x + self.alpha[layer] * self.attention(x, layer)
            x = x + self.alpha[layer] * self.ff[layer](x)
        return self.to_logits(x)
