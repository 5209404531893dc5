"""As fast small GPTs are trained: values of the first layer in all others, skips across the depth, squared ReLU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


class HalfTruncatedRotary(nn.Module):
    """Half of the frequencies are zero; tables as attributes, made for a longest text."""

    def __init__(self, dim: int, max_seq_len: int) -> None:
        super().__init__()
        angular_freq = (1 / 1024) ** torch.linspace(0, 1, steps=dim // 4, dtype=torch.float32)
        angular_freq = torch.cat([angular_freq, angular_freq.new_zeros(dim // 4)])
        theta = torch.einsum("i,j -> ij", torch.arange(max_seq_len, dtype=torch.float32), angular_freq)
        self.cos, self.sin = nn.Buffer(theta.cos(), persistent=False), nn.Buffer(theta.sin(), persistent=False)

    def forward(self, x_BTHD: Tensor) -> Tensor:
        cos, sin = self.cos[None, : x_BTHD.size(-3), None, :], self.sin[None, : x_BTHD.size(-3), None, :]
        x1, x2 = x_BTHD.to(dtype=torch.float32).chunk(2, dim=-1)
        return torch.cat((x1 * cos + x2 * sin, x1 * (-sin) + x2 * cos), 3).type_as(x_BTHD)


class ValueAttention(nn.Module):
    """Weights [3, heads · width, dim] in one parameter; values are mixed with the first layer's."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv_w = nn.Parameter(torch.randn(3, num_heads * head_dim, dim) * dim**-0.5)
        self.lambdas = nn.Parameter(torch.tensor([0.5, 0.5]))
        self.rotary = HalfTruncatedRotary(head_dim, 64)
        self.c_proj = nn.Linear(num_heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        B, T = x.size(0), x.size(1)
        qkv = F.linear(x, self.qkv_w.flatten(end_dim=1)).view(B, T, 3 * self.num_heads, self.head_dim)
        q, k, v = qkv.chunk(3, dim=-2)
        q, k = self.rotary(norm(q)), self.rotary(norm(k))
        first = v if first is None else first
        v = self.lambdas[0] * v + self.lambdas[1] * first.view_as(v)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, scale=0.12
        )
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, -1)), first


class ValueBlock(nn.Module):
    """The input of the whole model joins at each layer."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = ValueAttention(dim, num_heads, dim // num_heads)
        self.c_fc, self.c_proj = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(2 * dim, dim, bias=False)
        self.lambdas = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor, first: Tensor | None, x0: Tensor) -> tuple[Tensor, Tensor]:
        x = self.lambdas[0] * x + self.lambdas[1] * x0
        attended, first = self.attn(norm(x), first)
        x = x + attended
        return x + self.c_proj(F.relu(self.c_fc(norm(x))).square()), first


class ValueResidual(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, dim: int = 32, num_heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(ValueBlock(dim, num_heads) for _ in range(4))
        self.skip_weights = nn.Parameter(torch.ones(2))
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = x0 = norm(self.embed(tokens))
        first: Tensor | None = None
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index >= 2:
                x = x + self.skip_weights[index - 2] * skips.pop()
            x, first = block(x, first, x0)
            if index < 2:
                skips.append(x)
        logits = self.lm_head(norm(x)).float()
        return 15 * logits * torch.rsqrt(logits.square() + 225)
