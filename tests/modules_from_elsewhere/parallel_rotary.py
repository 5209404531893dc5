"""Attention and MLP of one input, side by side: rotary on a part of each head, refreshed as texts grow, or by pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RefreshedRotary(nn.Module):
    """Tables that are made again when a text is longer than any before."""

    cos_cached: Tensor
    sin_cached: Tensor
    inv_freq: Tensor

    def __init__(self, dim: int, max_seq_len: int, base: int = 1000) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim)), persistent=False)
        self._set_cache(max_seq_len)

    def _set_cache(self, seq_len: int) -> None:
        self.max_seq_len_cached = seq_len
        t = torch.arange(seq_len, dtype=self.inv_freq.dtype)
        emb = torch.cat((freqs := torch.outer(t, self.inv_freq), freqs), dim=-1)
        self.register_buffer("cos_cached", emb.cos()[None, None], persistent=False)
        self.register_buffer("sin_cached", emb.sin()[None, None], persistent=False)

    def forward(self, x: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        if seq_len > self.max_seq_len_cached:
            self._set_cache(seq_len)
        return self.cos_cached[:, :, :seq_len].to(x.dtype), self.sin_cached[:, :, :seq_len].to(x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class PartlyRotated(nn.Module):
    """Interleaved projection, a quarter of each head turned, bmm with a boolean triangle in a buffer."""

    bias: Tensor

    def __init__(self, hidden: int, heads: int, max_positions: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, hidden // heads
        self.rotary_ndims = self.head_size // 4
        mask = torch.tril(torch.ones((max_positions, max_positions), dtype=torch.bool))
        self.register_buffer("bias", mask.view(1, 1, max_positions, max_positions), persistent=False)
        self.rotary = RefreshedRotary(self.rotary_ndims, max_positions)
        self.query_key_value, self.dense = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.query_key_value(x)
        qkv = qkv.view(*qkv.size()[:-1], self.heads, 3 * self.head_size)
        query, key, value = (t.permute(0, 2, 1, 3) for t in qkv.split(self.head_size, dim=-1))
        cos, sin = self.rotary(value, seq_len=key.shape[-2])
        query, key = (
            torch.cat((t * cos + rotate_half(t) * sin, rest), dim=-1)
            for t, rest in (
                (query[..., : self.rotary_ndims], query[..., self.rotary_ndims :]),
                (key[..., : self.rotary_ndims], key[..., self.rotary_ndims :]),
            )
        )
        batch, heads, length, size = query.size()
        scores = torch.zeros(batch * heads, length, length, dtype=query.dtype)
        scores = torch.baddbmm(
            scores,
            query.reshape(batch * heads, length, size),
            key.reshape(batch * heads, length, size).transpose(1, 2),
            beta=1.0,
            alpha=size**-0.5,
        ).view(batch, heads, length, length)
        scores = torch.where(self.bias[:, :, :length, :length], scores, torch.finfo(scores.dtype).min)
        out = torch.matmul(F.softmax(scores, dim=-1).to(value.dtype), value)
        return self.dense(out.permute(0, 2, 1, 3).contiguous().view(batch, length, -1))


class PartialRotary(nn.Module):
    """forward(input_ids [batch, length]) gives logits [batch, length, vocabulary]; a norm for each branch."""

    def __init__(self, vocabulary: int = 53, hidden: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embed_in, self.embed_out = nn.Embedding(vocabulary, hidden), nn.Linear(hidden, vocabulary, bias=False)
        self.attention = nn.ModuleList(PartlyRotated(hidden, heads, 64) for _ in range(2))
        self.input_norm, self.post_norm = (nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2)) for _ in range(2))
        self.h_to_4h = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in range(2))
        self.four_h_to_h = nn.ModuleList(nn.Linear(2 * hidden, hidden) for _ in range(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed_in(input_ids)
        for index, attention in enumerate(self.attention):
            mlp = self.four_h_to_h[index](F.gelu(self.h_to_4h[index](self.post_norm[index](x))))
            x = mlp + attention(self.input_norm[index](x)) + x
        return self.embed_out(x)


def fixed_pos_embedding(dim: int, seq_len: int) -> tuple[Tensor, Tensor]:
    inv_freq = 1.0 / (1000 ** (torch.arange(0, dim, 2) / dim))
    sinusoid = torch.einsum("i , j -> i j", torch.arange(seq_len).float(), inv_freq).float()
    return torch.sin(sinusoid), torch.cos(sinusoid)


def apply_rotary(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """x is [batch, length, heads, width]; neighbours are turned together."""
    sin, cos = (t[None, : x.shape[1], None, :].repeat_interleave(2, 3) for t in (sin, cos))
    return x * cos + torch.stack((-x[:, :, :, 1::2], x[:, :, :, ::2]), dim=-1).flatten(-2) * sin


class PairedRotary(nn.Module):
    """forward(input_ids [batch, length]) gives logits [batch, length, vocabulary]; one norm for both branches."""

    bias: Tensor
    masked_bias: Tensor

    def __init__(self, vocabulary: int = 53, n_embd: int = 32, n_head: int = 4, rotary_dim: int = 4) -> None:
        super().__init__()
        self.n_head, self.rotary_dim = n_head, rotary_dim
        self.wte = nn.Embedding(vocabulary, n_embd)
        self.register_buffer("bias", torch.tril(torch.ones(64, 64, dtype=torch.uint8)).view(1, 1, 64, 64))
        self.register_buffer("masked_bias", torch.tensor(-1e9))
        self.scale_attn = torch.sqrt(torch.tensor(n_embd // n_head, dtype=torch.float32))
        self.ln_1 = nn.ModuleList(nn.LayerNorm(n_embd) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.ModuleList(nn.Linear(n_embd, n_embd, bias=False) for _ in range(2)) for _ in range(4)
        )
        self.fc_in = nn.ModuleList(nn.Linear(n_embd, 2 * n_embd) for _ in range(2))
        self.fc_out = nn.ModuleList(nn.Linear(2 * n_embd, n_embd) for _ in range(2))
        self.ln_f, self.lm_head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocabulary)

    def attention(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = (
            f[layer](x).view(*x.shape[:2], self.n_head, x.shape[-1] // self.n_head)
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        sin, cos = fixed_pos_embedding(self.rotary_dim, x.shape[1])
        k_rot, k_pass = k[..., : self.rotary_dim], k[..., self.rotary_dim :]
        q_rot, q_pass = q[..., : self.rotary_dim], q[..., self.rotary_dim :]
        k = torch.cat([apply_rotary(k_rot, sin, cos), k_pass], dim=-1).permute(0, 2, 1, 3)
        q = torch.cat([apply_rotary(q_rot, sin, cos), q_pass], dim=-1).permute(0, 2, 1, 3)
        causal_mask = self.bias[:, :, : k.size(-2), : k.size(-2)]
        weights = torch.matmul(q.float(), k.float().transpose(-1, -2)) / self.scale_attn
        weights = nn.Softmax(dim=-1)(torch.where(causal_mask.bool(), weights, self.masked_bias.to(weights.dtype)))
        out = torch.matmul(weights, v.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).contiguous()
        return self.out_proj[layer](out.view(*x.shape))

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.wte(input_ids)
        for layer in range(2):
            y = self.ln_1[layer](hidden)
            mlp = self.fc_out[layer](F.gelu(self.fc_in[layer](y), approximate="tanh"))
            hidden = self.attention(y, layer) + mlp + hidden
        return self.lm_head(self.ln_f(hidden)).to(torch.float32)
