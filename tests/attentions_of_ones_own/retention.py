"""Retention in its parallel form: products that fade with the distance, rows divided by sums (Sun et al., 2023)."""

import torch
from torch import Tensor, nn

from autoconvert import ops
from autoconvert.pattern import Pattern


class Retention(nn.Module):
    log_decay: Tensor

    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.h = h
        self.wq, self.wk, self.wv = (nn.Parameter(torch.randn(d, d) / d**0.5) for _ in range(3))
        self.register_buffer("log_decay", torch.log1p(-(2.0 ** (-2 - torch.arange(h)))))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = ((x @ w).view(*x.shape[:2], self.h, -1) for w in (self.wq, self.wk, self.wv))
        at = torch.arange(x.shape[1], device=x.device)
        fade = torch.where(at[:, None] >= at, torch.exp((at[:, None] - at) * self.log_decay[:, None, None]), 0)
        r = torch.einsum("bnhd,bmhd->hbmn", q, k) * fade.mT[:, None]
        r = r / r.sum(2, keepdim=True).abs().clamp(min=1)
        return torch.einsum("hbmn,bmhd->bnhd", r, v).reshape_as(x)


class RetentiveDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.layers = nn.Embedding(53, 16), nn.ModuleList([Retention(16, 2), Retention(16, 4)])
        self.gate = nn.Linear(16, 16)

    def forward(self, t: Tensor) -> Tensor:
        x = self.table(t)
        for layer in self.layers:
            x = x + nn.functional.silu(self.gate(x)) * layer(x)
        return nn.functional.linear(x, self.table.weight)


def retained(q: Tensor, k: Tensor, v: Tensor, fade: Tensor) -> Tensor:
    r = torch.einsum("bnhd,bmhd->hbmn", q, k) * fade
    return torch.einsum("hbmn,bmhd->bnhd", r / r.sum(2, keepdim=True).abs().clamp(min=1), v)


def retention(q: Tensor, k: Tensor, v: Tensor, fade: Tensor) -> Tensor:
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    r = q @ k.mT * fade.mT.transpose(0, 1)
    return (r / r.sum(-1, keepdim=True).abs().clamp(min=1) @ v).transpose(1, 2)


RETAIN = ops.operation(retention)
SIZES = {"q": (1, 5, 3, 14), "k": (1, 5, 3, 14), "v": (1, 5, 3, 22), "fade": (3, 1, 5, 5)}
PATTERNS = (Pattern("retention", "attention", retained, RETAIN, SIZES, operations=(RETAIN,)),)
