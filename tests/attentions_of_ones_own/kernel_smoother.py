"""A kernel of distances in the place of the product, summed to one (Tsai et al., 2019)."""

import torch
from torch import Tensor, nn

from autoconvert import ops
from autoconvert.pattern import Pattern


class KernelSmoother(nn.Module):
    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key = nn.Linear(width, width, bias=False)
        self.to_value = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, self.heads, -1).movedim(2, 1).reshape(batch * self.heads, length, -1)

        query, key, value = split(self.to_query(x)), split(self.to_key(x)), split(self.to_value(x))
        kernel = torch.exp(-0.125 * (query[:, :, None] - key[:, None]).pow(2).sum(-1)).tril()
        smoothed = torch.bmm(kernel, value) / kernel.sum(-1, keepdim=True)
        return smoothed.view(batch, self.heads, length, -1).movedim(1, 2).reshape(batch, length, width)


class KernelDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.smoother = nn.Embedding(53, 16), KernelSmoother()
        self.norm, self.logits = nn.LayerNorm(16), nn.Linear(16, 53)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        return self.logits(x + self.smoother(self.norm(x)))


def smoothed(query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
    kernel = torch.exp((query[:, :, None] - key[:, None]).pow(2).sum(-1) * rate).tril()
    return torch.bmm(kernel, value) / kernel.sum(-1, keepdim=True)


def by_products(query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
    apart = query.square().sum(-1, keepdim=True) - 2 * query @ key.mT + key.square().sum(-1)[:, None]
    kernel = torch.exp(apart.clamp_min(0) * rate).tril()
    return kernel @ value / kernel.sum(-1, keepdim=True)


SMOOTHING = ops.operation(by_products)
SIZES: dict[str, tuple[int, ...] | Tensor | float] = {
    "query": (3, 5, 14),
    "key": (3, 5, 14),
    "value": (3, 5, 22),
    "rate": -0.3,
}
PATTERNS = (Pattern("kernel", "attention", smoothed, SMOOTHING, SIZES, operations=(SMOOTHING,)),)
