"""Attention without a softmax: sums over the text so far, and the same with decays as a matrix of positions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CumulativeAttention(nn.Module):
    """Positive features; running sums of keys times values, and of keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = (f(x).view(b, n, self.heads, d // self.heads) for f in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        kv = torch.einsum("blhm,blhn->blhmn", k, v).cumsum(dim=1)
        z = 1 / (torch.einsum("blhm,blhm->blh", q, k.cumsum(dim=1)) + 1e-6)
        return self.o(torch.einsum("blhm,blhmn,blh->blhn", q, kv, z).reshape(b, n, d))


class CumulativeDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]: sums first, then a softmax."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocabulary, dim), nn.Parameter(torch.randn(64, dim))
        self.linear_attention = CumulativeAttention(dim, heads)
        self.softmax_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.glu = nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = self.embedding(tokens) + self.position[:n]
        x = x + self.linear_attention(self.norm1(x))
        y = self.norm2(x)
        later = torch.arange(n)[None, :] > torch.arange(n)[:, None]
        x = x + self.softmax_attention(y, y, y, attn_mask=later)[0]
        return self.head(x + F.glu(self.glu(self.norm3(x)), dim=-1))


class Retention(nn.Module):
    """Scores times powers of each head's decay; a norm of each head without a weight, and a gate of SiLU."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, hidden_size // heads
        self.gammas = (1 - torch.exp(torch.linspace(math.log(1 / 4), math.log(1 / 32), heads))).tolist()
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.randn(hidden_size, hidden_size) / 6) for _ in range(3))
        self.W_G, self.W_O = (nn.Parameter(torch.randn(hidden_size, hidden_size) / 6) for _ in range(2))
        self.group_norm = nn.GroupNorm(heads, hidden_size)

    def decay(self, length: int, gamma: float) -> Tensor:
        n, m = torch.arange(length).unsqueeze(1), torch.arange(length).unsqueeze(0)
        D = (gamma ** (n - m)) * (n >= m).float()
        D[D != D] = 0
        return D

    def forward(self, X: Tensor) -> Tensor:
        batch, length, size = X.shape
        heads = []
        for index, gamma in enumerate(self.gammas):
            part = slice(index * self.head_size, (index + 1) * self.head_size)
            Q, K, V = X @ self.W_Q[:, part], X @ self.W_K[:, part], X @ self.W_V[:, part]
            heads.append((Q @ K.permute(0, 2, 1) * self.decay(length, gamma)) @ V)
        Y = self.group_norm(torch.cat(heads, dim=2).reshape(-1, size)).reshape(batch, length, size)
        return ((X @ self.W_G) * torch.sigmoid(X @ self.W_G) * Y) @ self.W_O


class RetentionDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, hidden_size: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden_size)
        self.retentions = nn.ModuleList(Retention(hidden_size, heads) for _ in range(2))
        self.layer_norms_1, self.layer_norms_2 = (
            nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(2)) for _ in range(2)
        )
        self.ffns = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden_size, 64), nn.GELU(), nn.Linear(64, hidden_size)) for _ in range(2)
        )
        self.proj = nn.Parameter(torch.randn(hidden_size, vocabulary) / hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        X = self.embed(tokens)
        for retention, norm_1, norm_2, ffn in zip(
            self.retentions, self.layer_norms_1, self.layer_norms_2, self.ffns, strict=True
        ):
            Y = retention(norm_1(X)) + X
            X = ffn(norm_2(Y)) + Y
        return X @ self.proj
