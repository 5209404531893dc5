"""Keys and values of a small latent with one rotary key for all heads; experts chosen by sigmoids within groups."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ntk_frequencies(dim: int, base: float, factor: float) -> Tensor:
    """A larger base, so that the slowest turn is `factor` times as slow."""
    base = base * factor ** (dim / (dim - 2))
    return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))


def turn(x: Tensor, freqs_cis: Tensor) -> Tensor:
    x_ = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    freqs_cis = freqs_cis.view(1, x_.size(1), 1, x_.size(-1))
    return torch.view_as_real(x_ * freqs_cis).flatten(3).to(x.dtype)


class MLA(nn.Module):
    """Queries, keys [batch, length, heads, width]; scores by Einstein sums."""

    def __init__(self, dim: int, n_heads: int, q_rank: int, kv_rank: int, nope: int, rope: int, value: int) -> None:
        super().__init__()
        self.n_heads, self.kv_rank, self.nope, self.rope, self.value = n_heads, kv_rank, nope, rope, value
        self.wq_a, self.q_norm = nn.Linear(dim, q_rank, bias=False), nn.RMSNorm(q_rank)
        self.wq_b = nn.Linear(q_rank, n_heads * (nope + rope), bias=False)
        self.wkv_a, self.kv_norm = nn.Linear(dim, kv_rank + rope, bias=False), nn.RMSNorm(kv_rank)
        self.wkv_b = nn.Linear(kv_rank, n_heads * (nope + value), bias=False)
        self.wo = nn.Linear(n_heads * value, dim, bias=False)
        self.softmax_scale = (nope + rope) ** -0.5 * (0.1 * math.log(4.0) + 1.0) ** 2

    def forward(self, x: Tensor, freqs_cis: Tensor, mask: Tensor) -> Tensor:
        bsz, seqlen, _ = x.size()
        q = self.wq_b(self.q_norm(self.wq_a(x))).view(bsz, seqlen, self.n_heads, self.nope + self.rope)
        q_nope, q_pe = torch.split(q, [self.nope, self.rope], dim=-1)
        q = torch.cat([q_nope, turn(q_pe, freqs_cis)], dim=-1)
        kv, k_pe = torch.split(self.wkv_a(x), [self.kv_rank, self.rope], dim=-1)
        k_pe = turn(k_pe.unsqueeze(2), freqs_cis)
        kv = self.wkv_b(self.kv_norm(kv)).view(bsz, seqlen, self.n_heads, self.nope + self.value)
        k_nope, v = torch.split(kv, [self.nope, self.value], dim=-1)
        k = torch.cat([k_nope, k_pe.expand(-1, -1, self.n_heads, -1)], dim=-1)
        scores = torch.einsum("bshd,bthd->bhst", q, k) * self.softmax_scale + mask
        scores = scores.softmax(dim=-1, dtype=torch.float32).type_as(x)
        return self.wo(torch.einsum("bhst,bthd->bshd", scores, v).flatten(2))


class GroupedExperts(nn.Module):
    """All experts compute; groups are ranked by their two best, a bias only ranks; one expert sees every token."""

    def __init__(self, dim: int, inter: int, experts: int, groups: int, chosen: int) -> None:
        super().__init__()
        self.experts, self.groups, self.chosen = experts, groups, chosen
        self.gate = nn.Parameter(torch.randn(experts, dim) * dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(experts))
        self.w1, self.w3 = (nn.Parameter(torch.randn(experts, inter, dim) * dim**-0.5) for _ in range(2))
        self.w2 = nn.Parameter(torch.randn(experts, dim, inter) * inter**-0.5)
        self.shared = nn.Sequential(nn.Linear(dim, inter), nn.SiLU(), nn.Linear(inter, dim))

    def weights(self, x: Tensor) -> Tensor:
        original = F.linear(x, self.gate).sigmoid()
        scores = (original + self.bias).view(*x.shape[:-1], self.groups, -1)
        best = scores.topk(2, dim=-1)[0].sum(dim=-1).topk(1, dim=-1)[1]
        closed = torch.ones_like(scores[..., 0], dtype=torch.bool).scatter(-1, best, False)
        scores = scores.masked_fill(closed.unsqueeze(-1), float("-inf")).flatten(-2)
        indices = torch.topk(scores, self.chosen, dim=-1)[1]
        weights = original.gather(-1, indices)
        weights = weights / weights.sum(dim=-1, keepdim=True) * 1.5
        return torch.zeros_like(original).scatter(-1, indices, weights)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(torch.einsum("bsd,efd->bsef", x, self.w1)) * torch.einsum("bsd,efd->bsef", x, self.w3)
        each = torch.einsum("bsef,edf->bsed", hidden, self.w2)
        return (each * self.weights(x).unsqueeze(-1)).sum(-2) + self.shared(x)


class LatentDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    freqs_cis: Tensor

    def __init__(self, vocabulary: int = 53, dim: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        angles = torch.outer(torch.arange(64), ntk_frequencies(4, 100.0, 2.0))
        self.register_buffer("freqs_cis", torch.polar(torch.ones_like(angles), angles), persistent=False)
        self.attn = nn.ModuleList(MLA(dim, n_heads, 24, 16, 8, 4, 8) for _ in range(2))
        self.ffn = nn.ModuleList(GroupedExperts(dim, 24, 6, 2, 2) for _ in range(2))
        self.attn_norm, self.ffn_norm = (nn.ModuleList(nn.RMSNorm(dim) for _ in range(2)) for _ in range(2))
        self.norm, self.head = nn.RMSNorm(dim), nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        seqlen = tokens.size(1)
        h = self.embed(tokens)
        mask = torch.full((seqlen, seqlen), float("-inf"), device=tokens.device).triu_(1)
        for layer in range(2):
            h = h + self.attn[layer](self.attn_norm[layer](h), self.freqs_cis[:seqlen], mask)
            h = h + self.ffn[layer](self.ffn_norm[layer](h))
        return self.head(self.norm(h))
