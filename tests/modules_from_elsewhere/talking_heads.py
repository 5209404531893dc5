"""Talking heads: heads are mixed before and after the softmax; sandwich norms, squared ReLU, ALiBi in a buffer."""

import torch
from torch import Tensor, nn


class TalkingAttention(nn.Module):
    """Einstein sums with weights over pairs of heads."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3, bias=False), nn.Linear(dim, dim)
        self.proj_l, self.proj_w = nn.Linear(num_heads, num_heads), nn.Linear(num_heads, num_heads)

    def forward(self, x: Tensor, bias: Tensor, future: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        attn = q @ k.transpose(-2, -1) + bias
        attn = self.proj_l(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        attn = attn.masked_fill(future, float("-inf")).softmax(dim=-1)
        attn = self.proj_w(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).masked_fill(future, 0.0)
        return self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))


class TalkingHeads(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    alibi: Tensor

    def __init__(self, vocabulary: int = 53, dim: int = 32, num_heads: int = 4, max_len: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        slopes = torch.tensor([2 ** (-8 * (head + 1) / num_heads) for head in range(num_heads)])
        offsets = torch.arange(max_len).view(1, 1, -1) - torch.arange(max_len).view(1, -1, 1)
        self.register_buffer("alibi", slopes.view(-1, 1, 1) * offsets)
        self.attns = nn.ModuleList(TalkingAttention(dim, num_heads) for _ in range(2))
        self.before, self.after, self.ff_before, self.ff_after = (
            nn.ModuleList(nn.LayerNorm(dim) for _ in range(2)) for _ in range(4)
        )
        self.fc1 = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(2))
        self.fc2 = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(2))
        self.head = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.size(1)
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        bias = self.alibi[:, :n, :n]
        x = self.embed(tokens)
        for i, attn in enumerate(self.attns):
            x = x + self.after[i](attn(self.before[i](x), bias, future))
            x = x + self.ff_after[i](self.fc2[i](self.fc1[i](self.ff_before[i](x)).relu().square()))
        return self.head(x)
