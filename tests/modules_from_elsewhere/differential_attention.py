"""The difference of two softmaxes, normed in each head (Ye et al., 2024), with values of doubled width."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lambda_init_fn(depth: int) -> float:
    return 0.8 - 0.6 * math.exp(-0.3 * depth)


def repeat_kv(x: Tensor, n_rep: int) -> Tensor:
    """[batch, key heads, length, width] with each head `n_rep` times."""
    bs, n_kv_heads, slen, head_dim = x.shape
    return (
        x[:, :, None, :, :]
        .expand(bs, n_kv_heads, n_rep, slen, head_dim)
        .reshape(bs, n_kv_heads * n_rep, slen, head_dim)
    )


class MultiheadDiffAttn(nn.Module):
    """Twice as many heads for queries and keys as for values; grouped keys."""

    def __init__(self, embed_dim: int, depth: int, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.n_rep = num_heads // num_kv_heads
        self.head_dim = embed_dim // num_heads // 2
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.k_proj = nn.Linear(embed_dim, embed_dim // self.n_rep, bias=False)
        self.v_proj = nn.Linear(embed_dim, embed_dim // self.n_rep, bias=False)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.lambda_init = lambda_init_fn(depth)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.zeros(self.head_dim).normal_(mean=0, std=0.1)) for _ in range(4)
        )
        self.subln = nn.RMSNorm(2 * self.head_dim, eps=1e-5)

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        bsz, tgt_len, embed_dim = x.size()
        q = self.q_proj(x).view(bsz, tgt_len, 2 * self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(bsz, tgt_len, 2 * self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(bsz, tgt_len, self.num_kv_heads, 2 * self.head_dim).transpose(1, 2)
        k, v = repeat_kv(k, self.n_rep), repeat_kv(v, self.n_rep)
        attn_weights = torch.matmul(q * self.head_dim**-0.5, k.transpose(-1, -2))
        attn_weights = torch.nan_to_num(attn_weights)
        attn_weights = attn_weights + attn_mask
        attn_weights = F.softmax(attn_weights, dim=-1, dtype=torch.float32).type_as(attn_weights)
        lambda_1 = torch.exp(torch.sum(self.lambda_q1 * self.lambda_k1, dim=-1).float()).type_as(q)
        lambda_2 = torch.exp(torch.sum(self.lambda_q2 * self.lambda_k2, dim=-1).float()).type_as(q)
        lambda_full = lambda_1 - lambda_2 + self.lambda_init
        attn_weights = attn_weights.view(bsz, self.num_heads, 2, tgt_len, tgt_len)
        attn_weights = attn_weights[:, :, 0] - lambda_full * attn_weights[:, :, 1]
        attn = self.subln(torch.matmul(attn_weights, v)) * (1 - self.lambda_init)
        return self.out_proj(attn.transpose(1, 2).reshape(bsz, tgt_len, embed_dim))


class DifferentialDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, embed_dim: int = 32, num_heads: int = 4) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, embed_dim)
        self.embed_positions = nn.Embedding(64, embed_dim)
        self.attns = nn.ModuleList(MultiheadDiffAttn(embed_dim, depth, num_heads, 2) for depth in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(embed_dim, eps=1e-5) for _ in range(5))
        self.gates, self.ups = (nn.ModuleList(nn.Linear(embed_dim, 48, bias=False) for _ in range(2)) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(48, embed_dim, bias=False) for _ in range(2))
        self.output_projection = nn.Linear(embed_dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.size(1)
        attn_mask = torch.triu(torch.zeros([length, length]).float().fill_(float("-inf")), 1)
        x = self.embed_tokens(tokens) + self.embed_positions(torch.arange(length))
        for depth, attn in enumerate(self.attns):
            x = x + attn(self.norms[2 * depth](x), attn_mask)
            y = self.norms[2 * depth + 1](x)
            x = x + self.downs[depth](F.silu(self.gates[depth](y)) * self.ups[depth](y))
        return self.output_projection(self.norms[-1](x))
