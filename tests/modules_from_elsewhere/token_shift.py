"""A part of each vector is the previous token's: in the projections of RWKV, and in front of every layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeMix(nn.Module):
    """Queries, keys and values of this and the previous token, each in its own proportion; attention with a gate."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.time_mix_k, self.time_mix_v, self.time_mix_r = (
            nn.Parameter(torch.linspace(0, 1, n_embd)[None, None]) for _ in range(3)
        )
        self.key, self.value, self.query, self.receptance, self.output = (
            nn.Linear(n_embd, n_embd, bias=False) for _ in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        xx = torch.cat([torch.zeros(B, 1, C), x[:, :-1, :]], dim=1)
        xk = x * self.time_mix_k + xx * (1 - self.time_mix_k)
        xv = x * self.time_mix_v + xx * (1 - self.time_mix_v)
        xr = x * self.time_mix_r + xx * (1 - self.time_mix_r)
        q, k, v = (
            layer(t).view(B, T, self.n_head, -1).transpose(1, 2)
            for layer, t in ((self.query, x), (self.key, xk), (self.value, xv))
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
        return self.output(torch.sigmoid(self.receptance(xr)) * y)


class ChannelMix(nn.Module):
    """A squared ReLU of shifted tokens, gated by their receptance."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.time_mix = nn.Parameter(torch.rand(1, 1, n_embd))
        self.key, self.value = nn.Linear(n_embd, 2 * n_embd, bias=False), nn.Linear(2 * n_embd, n_embd, bias=False)
        self.receptance = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shifted = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        mixed = torch.lerp(shifted, x, self.time_mix)
        return torch.sigmoid(self.receptance(mixed)) * self.value(torch.square(torch.relu(self.key(mixed))))


class TimeMixing(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]; the embedding is normed at first."""

    def __init__(self, vocabulary: int = 53, n_embd: int = 32, n_head: int = 2) -> None:
        super().__init__()
        self.emb, self.ln0 = nn.Embedding(vocabulary, n_embd), nn.LayerNorm(n_embd)
        self.ln1, self.ln2 = (nn.ModuleList(nn.LayerNorm(n_embd) for _ in range(2)) for _ in range(2))
        self.att = nn.ModuleList(TimeMix(n_embd, n_head) for _ in range(2))
        self.ffn = nn.ModuleList(ChannelMix(n_embd) for _ in range(2))
        self.ln_out, self.head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.ln0(self.emb(tokens))
        for ln1, att, ln2, ffn in zip(self.ln1, self.att, self.ln2, self.ffn, strict=True):
            x = x + att(ln1(x))
            x = x + ffn(ln2(x))
        return self.head(self.ln_out(x))


def shift_half(x: Tensor) -> Tensor:
    """The second half of the channels comes from the token before."""
    stay, move = x.chunk(2, dim=-1)
    return torch.cat((stay, F.pad(move, (0, 0, 1, -1))), dim=-1)


class ShiftedLayers(nn.Module):
    """Half of the channels are padded and cut before attention and before the MLP; ALiBi from lengths."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.token_emb = nn.Embedding(vocabulary, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.to_qkv = nn.ModuleList(nn.Linear(dim, 3 * dim, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, dim)) for _ in range(2))

    def bias(self, n: int) -> Tensor:
        slopes = torch.tensor([2.0 ** -(2 * head + 1) for head in range(self.heads)])
        steps = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        return (slopes[:, None, None] * steps).masked_fill(steps > 0, float("-inf"))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_emb(tokens)
        bias = self.bias(tokens.shape[1])
        for layer in range(2):
            y = shift_half(self.norms[2 * layer](x))
            q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.to_qkv[layer](y).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            x = x + self.to_out[layer](y.transpose(1, 2).flatten(2))
            x = x + self.mlps[layer](shift_half(self.norms[2 * layer + 1](x)))
        return x @ self.token_emb.weight.t()
