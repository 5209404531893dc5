"""Linear biases instead of positions, in a buffer for the longest text; a parallel block; a dict as the result."""

import torch
from torch import Tensor, nn


def slopes(heads: int) -> Tensor:
    return 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)


class AlibiBlock(nn.Module):
    bias: Tensor

    def __init__(self, width: int, heads: int, longest: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        places = torch.arange(longest)
        distance = (places[None, :] - places[:, None]).float()
        bias = slopes(heads)[:, None, None] * distance
        self.register_buffer("bias", bias.masked_fill(distance > 0, -torch.inf)[None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = self.norm(x)
        qkv = self.qkv(y).reshape(batch, length, self.heads, 3, width // self.heads)
        q, k, v = (qkv[..., which, :].permute(0, 2, 1, 3) for which in range(3))
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        weights = (scores + self.bias[:, :, :length, :length]).softmax(dim=-1)
        attended = self.out((weights @ v).permute(0, 2, 1, 3).reshape(batch, length, width))
        return x + attended + self.down(torch.relu(self.up(y)) ** 2)


class AlibiDecoder(nn.Module):
    """forward(input_ids [batch, length]) gives {"logits": [batch, length, vocabulary]}."""

    def __init__(self, vocabulary: int = 53, width: int = 16, heads: int = 4, longest: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(AlibiBlock(width, heads, longest) for _ in range(2)))
        self.norm = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.blocks(self.embed(input_ids)))
        return {"hidden": x, "logits": x @ self.embed.weight.t()}
