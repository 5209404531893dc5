"""Biases from what is counted along the text: positions of a mask of ones, or how much each token lets be forgotten."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def build_alibi_tensor(attention_mask: Tensor, num_heads: int) -> Tensor:
    """[batch · heads, 1, length]: each column's position times the head's slope; heads need not be a power of two."""
    batch_size, seq_length = attention_mask.shape
    closest = 2 ** math.floor(math.log2(num_heads))
    base = torch.tensor(2 ** (-(2 ** -(math.log2(closest) - 3))), dtype=torch.float32)
    slopes = torch.pow(base, torch.arange(1, 1 + closest, dtype=torch.int32))
    if closest != num_heads:
        extra_base = torch.tensor(2 ** (-(2 ** -(math.log2(2 * closest) - 3))), dtype=torch.float32)
        powers = torch.arange(1, 1 + 2 * min(closest, num_heads - closest), 2, dtype=torch.int32)
        slopes = torch.cat([slopes, torch.pow(extra_base, powers)], dim=0)
    arange_tensor = ((attention_mask.cumsum(dim=-1) - 1) * attention_mask)[:, None, :]
    alibi = slopes[..., None] * arange_tensor
    return alibi.reshape(batch_size * num_heads, 1, seq_length)


class ColumnBias(nn.Module):
    """forward(input_ids [batch, length]) gives logits [batch, length, vocabulary]: heads in the batch, one baddbmm."""

    def __init__(self, vocabulary: int = 53, hidden_size: int = 36, num_heads: int = 6) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.word_embeddings, self.embeddings_norm = nn.Embedding(vocabulary, hidden_size), nn.LayerNorm(hidden_size)
        self.query_key_value = nn.ModuleList(nn.Linear(hidden_size, 3 * hidden_size) for _ in range(2))
        self.dense = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(hidden_size, 2 * hidden_size) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(2 * hidden_size, hidden_size) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(5))

    def attend(self, x: Tensor, alibi: Tensor, mask: Tensor, layer: int) -> Tensor:
        batch, length, _ = x.shape
        fused = self.query_key_value[layer](x).view(batch, length, self.num_heads, 3, self.head_dim)
        q, k, v = fused[..., 0, :], fused[..., 1, :], fused[..., 2, :]
        q = q.transpose(1, 2).reshape(batch * self.num_heads, length, self.head_dim)
        k = k.permute(0, 2, 3, 1).reshape(batch * self.num_heads, self.head_dim, length)
        v = v.transpose(1, 2).reshape(batch * self.num_heads, length, self.head_dim)
        scores = alibi.baddbmm(batch1=q, batch2=k, beta=1.0, alpha=self.head_dim**-0.5)
        scores = scores.view(batch, self.num_heads, length, length)
        weights = torch.masked_fill(scores, mask, torch.finfo(scores.dtype).min)
        probs = F.softmax(weights, dim=-1, dtype=torch.float32).view(batch * self.num_heads, length, length)
        context = torch.bmm(probs, v).view(batch, self.num_heads, length, self.head_dim)
        return self.dense[layer](context.permute(0, 2, 1, 3).reshape(batch, length, -1))

    def forward(self, input_ids: Tensor) -> Tensor:
        batch, length = input_ids.shape
        hidden = self.embeddings_norm(self.word_embeddings(input_ids))
        attention_mask = torch.ones((batch, length), device=hidden.device)
        alibi = build_alibi_tensor(attention_mask, self.num_heads)
        ids = torch.arange(length)
        mask = (ids[:, None] < ids[None, :])[None, None].expand(batch, 1, length, length)
        for layer in range(2):
            y = self.norms[2 * layer](hidden)
            hidden = self.attend(y, alibi, mask, layer) + y
            y = self.norms[2 * layer + 1](hidden)
            z = self.up[layer](y)
            z = z * 0.5 * (1.0 + torch.tanh(0.79788456 * z * (1 + 0.044715 * z * z)))
            hidden = self.down[layer](z) + y
        return F.linear(self.norms[4](hidden), self.word_embeddings.weight)


class ForgettingAttention(nn.Module):
    """Each head's scores fall by what the tokens between make it forget (Lin et al., 2025)."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.fgate = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, n_heads)
        self.ogate, self.o_norm, self.o = nn.Linear(dim, dim), nn.RMSNorm(dim // n_heads), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        log_f = F.logsigmoid(self.fgate(x)).transpose(1, 2)
        c = torch.cumsum(log_f, dim=-1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
        scores = scores + (c.unsqueeze(-1) - c.unsqueeze(-2))
        causal = torch.tril(torch.ones(T, T, dtype=torch.bool, device=x.device))
        probs = torch.softmax(scores.masked_fill(~causal, float("-inf")), dim=-1)
        out = self.o_norm(probs @ v).transpose(1, 2).reshape(B, T, D)
        return self.o(out * torch.sigmoid(self.ogate(x)))


class Forgetting(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]; there are no positions."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.attns = nn.ModuleList(ForgettingAttention(dim, n_heads) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(5))
        self.w12, self.w3 = (
            nn.ModuleList(nn.Linear(*sizes, bias=False) for _ in range(2)) for sizes in ((dim, 96), (48, dim))
        )
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for index, attn in enumerate(self.attns):
            x = x + attn(self.norms[2 * index](x))
            gate, value = self.w12[index](self.norms[2 * index + 1](x)).tensor_split(2, dim=-1)
            x = x + self.w3[index](F.silu(gate) * value)
        return self.lm_head(self.norms[4](x))
