"""Causal convolutions of a few taps: on queries, keys and values, and as a gated layer between attentions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvolvedAttention(nn.Module):
    """Each channel of queries, keys and values is convolved over three tokens, padded on the left."""

    def __init__(self, dim: int, heads: int, taps: int = 3) -> None:
        super().__init__()
        self.heads, self.taps = heads, taps
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.weight = nn.Parameter(torch.randn(3 * dim, 1, taps) * 0.3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = F.pad(self.to_qkv(x).transpose(1, 2), (self.taps - 1, 0))
        qkv = F.conv1d(qkv, self.weight, groups=3 * d).transpose(1, 2)
        q, k, v = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=8.0)
        return self.to_out(out.transpose(1, 2).reshape(b, n, d))


class ConvolvedQueries(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]; nothing else tells positions."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, dim)
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(4))
        self.attns = nn.ModuleList(ConvolvedAttention(dim, heads) for _ in range(2))
        self.ffs = nn.ModuleList(nn.Sequential(nn.Linear(dim, 64), nn.SiLU(), nn.Linear(64, dim)) for _ in range(2))
        self.out = nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        mask = torch.ones(n, n, device=tokens.device).tril().bool()
        x = self.emb(tokens)
        for index, (attn, ff) in enumerate(zip(self.attns, self.ffs, strict=True)):
            x = x + attn(self.norms[2 * index](x), mask)
            x = x + ff(self.norms[2 * index + 1](x))
        return self.out(x)


class GatedConvolution(nn.Module):
    """Padded by the layer on both sides and cut on the right; gates before and after."""

    def __init__(self, dim: int, taps: int = 4) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.conv = nn.Conv1d(dim, dim, taps, padding=taps - 1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        before, after, y = self.in_proj(x).transpose(-1, -2).chunk(3, dim=-2)
        y = self.conv(before * y)[..., : x.shape[1]]
        return self.out_proj((after * y).transpose(-1, -2))


class AlternatingConvolutions(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]: convolution, attention, convolution."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, dim)
        self.first, self.last = GatedConvolution(dim), GatedConvolution(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.emb(tokens)
        x = x + self.first(self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.attn(y, y, y, attn_mask=mask, is_causal=True, need_weights=False)[0]
        x = x + self.last(self.norms[2](x))
        return F.linear(x, self.emb.weight)
