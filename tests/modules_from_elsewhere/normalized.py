"""Everything on the sphere: vectors and weights normed as they are used, or weights as length and direction."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def l2norm(x: Tensor) -> Tensor:
    return F.normalize(x, p=2, dim=-1)


class SphericalBlock(nn.Module):
    """Residuals are steps from x to where a branch points, each channel by a learned share (nGPT, 2024)."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.wq, self.wk, self.wv, self.wo = (nn.Parameter(torch.randn(n_embd, n_embd)) for _ in range(4))
        self.w_up, self.w_gate = (nn.Parameter(torch.randn(2 * n_embd, n_embd)) for _ in range(2))
        self.w_down = nn.Parameter(torch.randn(n_embd, 2 * n_embd))
        self.attn_alpha, self.mlp_alpha = (nn.Parameter(torch.full((n_embd,), 0.05)) for _ in range(2))
        self.sqk = nn.Parameter(torch.ones(n_head, 1, n_embd // n_head))
        self.suv = nn.Parameter(torch.ones(2 * n_embd))

    def forward(self, h: Tensor, freqs: Tensor) -> Tensor:
        B, T, C = h.shape
        q, k, v = (
            F.linear(h, l2norm(w)).view(B, T, self.n_head, -1).permute(0, 2, 1, 3) for w in (self.wq, self.wk, self.wv)
        )
        q, k = (l2norm(self.turned(t, freqs)) * self.sqk for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=(C // self.n_head) ** 0.5)
        y = F.linear(y.permute(0, 2, 1, 3).reshape(B, T, C), l2norm(self.wo.t()).t())
        h = l2norm(torch.lerp(h, l2norm(y), self.attn_alpha.abs()))
        up, gate = F.linear(h, l2norm(self.w_up)) * self.suv, F.linear(h, l2norm(self.w_gate)) * self.suv * C**0.5
        y = l2norm(F.linear(up * F.silu(gate), l2norm(self.w_down.t()).t()))
        return l2norm(h + self.mlp_alpha * (y - h))

    def turned(self, x: Tensor, freqs: Tensor) -> Tensor:
        """Even and odd entries are the two parts of a number; they come out as halves."""
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.cat([even * freqs.cos() - odd * freqs.sin(), odd * freqs.cos() + even * freqs.sin()], dim=-1)


class Spherical(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, n_embd: int = 32, n_head: int = 4) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, n_embd)
        self.blocks = nn.ModuleList(SphericalBlock(n_embd, n_head) for _ in range(2))
        self.lm_head, self.sz = nn.Linear(n_embd, vocabulary, bias=False), nn.Parameter(torch.ones(vocabulary))
        self.theta = [1000.0 ** (-2 * index / (n_embd // n_head)) for index in range(n_embd // n_head // 2)]

    def forward(self, tokens: Tensor) -> Tensor:
        freqs = torch.arange(tokens.size(1), device=tokens.device).unsqueeze(1) * torch.tensor(self.theta)
        h = l2norm(F.embedding(tokens, l2norm(self.wte.weight)))
        for block in self.blocks:
            h = block(h, freqs)
        return F.linear(h, l2norm(self.lm_head.weight)) * self.sz


class LengthAndDirection(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]: weight norm, scales for each layer."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocabulary, dim, max_norm=None)
        self.qkv, self.out, self.ff1, self.ff2 = (
            nn.ModuleList(weight_norm(nn.Linear(*sizes)) for _ in range(2))
            for sizes in ((dim, 3 * dim), (dim, dim), (dim, 64), (32, dim))
        )
        self.gammas = nn.ParameterList(torch.full((dim,), 0.1) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(5))
        self.bias = nn.Parameter(torch.zeros(heads, 64))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        index = torch.arange(length)
        behind = index[:, None] - index[None, :]
        bias = self.bias[:, behind.clamp(min=0)]
        bias = torch.where(behind >= 0, bias, torch.full_like(bias, float("-inf")))
        x = self.embed(tokens)
        for layer in range(2):
            y = self.norms[2 * layer](x)
            qkv = self.qkv[layer](y).reshape(batch, length, 3, self.heads, -1)
            q, k, v = qkv.unbind(2)
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias[None])
            x = x + self.gammas[2 * layer] * self.out[layer](y.transpose(1, 2).reshape(batch, length, -1))
            value, gate = self.ff1[layer](self.norms[2 * layer + 1](x)).chunk(2, dim=-1)
            x = x + self.gammas[2 * layer + 1] * self.ff2[layer](value * F.softplus(gate))
        return F.linear(self.norms[4](x), self.embed.weight)
