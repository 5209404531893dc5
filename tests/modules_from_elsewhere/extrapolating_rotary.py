"""xPos: rotary whose length grows with the position, counted from the middle of the text or from its beginning."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate_half(x: Tensor) -> Tensor:
    x = x.reshape(*x.shape[:-1], -1, 2)
    x1, x2 = x.unbind(dim=-1)
    return torch.stack((-x2, x1), dim=-1).flatten(-2)


class XPos(nn.Module):
    """Angles and growths for `seq_len` positions."""

    inv_freq: Tensor
    scale: Tensor

    def __init__(self, dim: int, scale_base: int, centred: bool) -> None:
        super().__init__()
        self.scale_base, self.centred = scale_base, centred
        self.register_buffer("inv_freq", 1.0 / (10000 ** (torch.arange(0, dim, 2).float() / dim)))
        self.register_buffer("scale", (torch.arange(0, dim, 2) + 0.4 * dim) / (1.4 * dim))

    def forward(self, seq_len: int, device: torch.device) -> tuple[Tensor, Tensor]:
        t = torch.arange(seq_len, device=device).type_as(self.inv_freq)
        freqs = torch.einsum("i , j -> i j", t, self.inv_freq).repeat_interleave(2, dim=-1)
        power = (t - (seq_len // 2 if self.centred else 0)) / self.scale_base
        scale = self.scale ** power[:, None]
        return freqs, scale.repeat_interleave(2, dim=-1)


def apply_xpos(t: Tensor, freqs: Tensor, scale: Tensor) -> Tensor:
    return (t * freqs.cos() * scale) + (rotate_half(t) * freqs.sin() * scale)


class XPosAttention(nn.Module):
    """One head of keys and values for all queries; a norm before the output projection."""

    mask: Tensor | None

    def __init__(self, dim: int, dim_head: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm, self.sub_norm = nn.LayerNorm(dim), nn.LayerNorm(dim_head * heads)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, dim_head * 2, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)
        self.register_buffer("mask", None, persistent=False)

    def get_mask(self, n: int) -> Tensor:
        if self.mask is not None and self.mask.shape[-1] >= n:
            return self.mask[:n, :n]
        mask = torch.ones((n, n), dtype=torch.bool).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        return mask

    def forward(self, x: Tensor, freqs: Tensor, scale: Tensor) -> Tensor:
        b, n, _ = x.shape
        x = self.norm(x)
        q = self.to_q(x).view(b, n, self.heads, -1).transpose(1, 2) * self.scale
        k, v = self.to_kv(x).chunk(2, dim=-1)
        q, k = apply_xpos(q, freqs, scale), apply_xpos(k, freqs, scale**-1)
        sim = torch.einsum("b h i d, b j d -> b h i j", q, k)
        sim = sim.masked_fill(self.get_mask(n), -torch.finfo(sim.dtype).max)
        out = torch.einsum("b h i j, b j d -> b h i d", sim.softmax(dim=-1), v)
        return self.to_out(self.sub_norm(out.transpose(1, 2).reshape(b, n, -1)))


class FromTheBeginning(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    centred = False

    def __init__(self, vocabulary: int = 53, dim: int = 32) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, dim)
        self.rotary = XPos(8, 16, self.centred)
        self.attn = nn.ModuleList(XPosAttention(dim, 8, 4) for _ in range(2))
        self.ff = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, dim))
            for _ in range(2)
        )
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.normalize(self.emb(tokens), dim=-1) * x_scale(self.emb)
        freqs, scale = self.rotary(x.shape[1], x.device)
        for attn, ff in zip(self.attn, self.ff, strict=True):
            x = attn(x, freqs, scale) + x
            x = ff(x) + x
        return self.to_logits(x)


def x_scale(emb: nn.Embedding) -> float:
    return float(emb.embedding_dim**0.5)


class FromTheMiddle(FromTheBeginning):
    """The growth's centre is the middle of the text: of a query's and a key's growth only the ratio counts."""

    centred = True
