"""In the style of small research code: a sliding window by comparing positions, normed queries, neighbours turned."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


def rotate_every_two(x: Tensor) -> Tensor:
    pairs = x.view(*x.shape[:-1], -1, 2)
    return torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, window: int | None) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        widths = {"q": width, "k": width // heads, "v": width // heads, "o": width}
        self.projections = nn.ModuleDict({name: nn.Linear(width, size, bias=False) for name, size in widths.items()})
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.gate_up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        y = F.rms_norm(x, (x.size(-1),))
        q, k, v = (
            self.projections[name](y).view(batch, length, -1, x.shape[-1] // self.heads).movedim(1, 2)
            for name in ("q", "k", "v")
        )
        q, k = F.normalize(q, dim=-1) * self.temperature, F.normalize(k, dim=-1)
        q, k = (t * cos + rotate_every_two(t) * sin for t in (q, k))
        row, column = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
        seen = column <= row if self.window is None else (column <= row) & (row - column < self.window)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0, enable_gqa=True)
        x = x + self.projections["o"](attended.movedim(2, 1).flatten(-2))
        gate, up = self.gate_up(F.rms_norm(x, (x.size(-1),))).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class WindowedPairs(nn.Module):
    """forward(tokens [batch, length]) gives an object with `logits` [batch, length, vocabulary], capped."""

    def __init__(self, vocabulary: int = 53, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.width = width // heads
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads, window) for window in (5, None))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Output:
        frequencies = 100.0 ** -(torch.arange(0, self.width, 2) / self.width)
        angles = torch.einsum("i,j->ij", torch.arange(tokens.size(1)).float(), frequencies).repeat_interleave(2, -1)
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        logits = self.head(F.rms_norm(x, (x.size(-1),)))
        return Output(logits=15.0 * torch.tanh(logits / 15.0), hidden=x)
