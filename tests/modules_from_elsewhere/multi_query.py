"""Functions over a list of parameters: one key head for all, three ways to write a root-mean-square norm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_by_length(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + 1e-6) * gain


def norm_by_normalize(x: Tensor, gain: Tensor) -> Tensor:
    return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * gain


def norm_by_mean(x: Tensor, gain: Tensor) -> Tensor:
    return gain * (x / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-6))


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Pairs first with second half of the first four entries; the others stay."""
    turned, rest = torch.split(x, [4, x.shape[-1] - 4], dim=-1)
    angles = positions[:, None] * torch.tensor([1.0, 0.05], device=x.device)
    cos, sin = torch.cos(angles), torch.sin(angles)
    first, second = torch.chunk(turned, 2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)


class MultiQuery(nn.Module):
    """forward(tokens [batch, length]) gives a list that starts with logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.head = heads, width // heads
        shapes: list[tuple[int, ...]] = [(vocabulary, width)]
        for _ in range(2):
            shapes += [(width,), (width, width), (width, 2 * self.head), (width, width)]
            shapes += [(width,), (width, 4 * width), (2 * width, width)]
        shapes += [(width,), (width, vocabulary)]
        self.weights = nn.ParameterList(torch.randn(shape) * shape[0] ** -0.5 for shape in shapes)

    def attend(self, x: Tensor, query: Tensor, key_value: Tensor, out: Tensor) -> Tensor:
        batch, length, width = x.shape
        positions = torch.arange(length, device=x.device)
        q = torch.matmul(x, query).view(batch, length, self.heads, self.head).transpose(1, 2)
        k, v = torch.matmul(x, key_value).unsqueeze(1).chunk(2, dim=-1)
        q, k = rotate(q, positions), rotate(k, positions)
        scores = torch.matmul(q, k.transpose(-1, -2)) * self.head**-0.5
        later = positions[None, :] > positions[:, None]
        scores = torch.where(later, torch.finfo(scores.dtype).min, scores)
        mixed = torch.matmul(torch.softmax(scores, dim=-1), v)
        return torch.matmul(mixed.transpose(1, 2).reshape(batch, length, width), out)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        embedding, *layers, last_gain, head = self.weights
        x = F.embedding(tokens, embedding)
        for index, norm in enumerate((norm_by_length, norm_by_normalize)):
            gain, query, key_value, out, second_gain, up, down = layers[7 * index : 7 * index + 7]
            x = x + self.attend(norm(x, gain), query, key_value, out)
            gate, value = torch.split(torch.matmul(norm(x, second_gain), up), 2 * x.shape[-1], dim=-1)
            x = torch.addmm(x.flatten(0, 1), (gate * torch.sigmoid(1.702 * gate) * value).flatten(0, 1), down).view_as(
                x
            )
        return [torch.matmul(norm_by_mean(x, last_gain), head), x]
