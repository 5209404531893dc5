"""What stands before the text: learned keys and values in each layer, or registers at the beginning of the sequence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaleNorm(nn.Module):
    """A vector's direction times one learned length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1) * dim**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.norm(x, dim=-1, keepdim=True).clamp(min=1e-5) * self.g


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((-x2, x1), dim=-1)


class MemoryAttention(nn.Module):
    """Rotary on half of each head; learned keys and values that every query sees."""

    def __init__(self, dim: int, heads: int, num_mem_kv: int) -> None:
        super().__init__()
        self.heads, self.num_mem = heads, num_mem_kv
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.mem_k, self.mem_v = (nn.Parameter(torch.randn(heads, num_mem_kv, dim // heads)) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GLU())

    def forward(self, x: Tensor, freqs: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        width = freqs.shape[-1]
        q, k = (
            torch.cat((t[..., :width] * freqs.cos() + rotate_half(t[..., :width]) * freqs.sin(), t[..., width:]), -1)
            for t in (q, k)
        )
        mem_k, mem_v = (m[None].expand(b, -1, -1, -1) for m in (self.mem_k, self.mem_v))
        k, v = torch.cat((mem_k, k), dim=-2), torch.cat((mem_v, v), dim=-2)
        dots = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
        i, j = dots.shape[-2:]
        hidden = torch.ones((i, j), dtype=torch.bool).triu(j - i + 1)
        dots = dots.masked_fill(hidden, -torch.finfo(dots.dtype).max)
        out = dots.softmax(-1, dtype=torch.float32) @ v
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


class MemoryKeys(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    inv_freq: Tensor

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, dim)
        rotated = dim // heads // 2
        self.register_buffer("inv_freq", 1.0 / (10000 ** (torch.arange(0, rotated, 2).float() / rotated)))
        self.attns = nn.ModuleList(MemoryAttention(dim, heads, 3) for _ in range(2))
        self.ffs = nn.ModuleList(nn.Sequential(nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, dim)) for _ in range(2))
        self.norms = nn.ModuleList(ScaleNorm(dim) for _ in range(5))
        self.to_logits = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        freqs = torch.arange(tokens.shape[1]).type_as(self.inv_freq)[:, None] * self.inv_freq
        freqs = torch.cat((freqs, freqs), dim=-1)
        x = self.emb(tokens)
        for index, (attn, ff) in enumerate(zip(self.attns, self.ffs, strict=True)):
            x = x + attn(self.norms[2 * index](x), freqs)
            x = x + ff(self.norms[2 * index + 1](x))
        return self.to_logits(self.norms[-1](x))


class Registers(nn.Module):
    """Learned vectors stand before the embedded text and are cut off at the end; attention to both is causal."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 4, count: int = 4) -> None:
        super().__init__()
        self.heads, self.count = heads, count
        self.tok, self.pos = nn.Embedding(vocabulary, dim), nn.Embedding(64, dim)
        self.registers = nn.Parameter(torch.randn(count, dim))
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(dim, 64), nn.SiLU(), nn.Linear(64, dim)) for _ in range(2))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        b, n = tokens.shape
        x = self.tok(tokens) + self.pos(torch.arange(n, device=tokens.device))
        x = torch.cat((self.registers.unsqueeze(0).expand(b, -1, -1), x), dim=1)
        for qkv, out, mlp in zip(self.qkv, self.out, self.mlp, strict=True):
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in qkv(self.norm(x)).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(y.transpose(1, 2).flatten(2))
            x = x + mlp(x)
        return self.norm(x[:, self.count :]) @ self.tok.weight.T
