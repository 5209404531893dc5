"""A small mixture of experts: every expert computes, and one-hot weights choose; key heads shared or repeated."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseMixture(nn.Module):
    def __init__(self, width: int, inner: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.experts, self.chosen = experts, chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, inner) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, inner, width) * inner**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        scores, indices = self.router(x).softmax(-1).topk(self.chosen, dim=-1)
        scores = scores / scores.sum(-1, keepdim=True)
        combine = (F.one_hot(indices, self.experts) * scores[..., None]).sum(-2)
        hidden = F.silu(torch.einsum("bsd,edf->besf", x, self.up))
        return torch.einsum("besf,efd,bse->bsd", hidden, self.down, combine)


class MixtureDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.q, self.kv, self.o = nn.Linear(width, width), nn.Linear(width, width // 2 * 2), nn.Linear(width, width)
        self.places = nn.Parameter(torch.randn(64, width))
        self.mixtures = nn.ModuleList(DenseMixture(width, 24, 4, 2) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(4))
        self.head = nn.Linear(width, vocabulary)

    def attend(self, x: Tensor, repeated: bool) -> Tensor:
        q = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
        if repeated:
            k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=not repeated)
        return self.o(y.transpose(1, 2).flatten(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places[: tokens.shape[1]]
        for index, mixture in enumerate(self.mixtures):
            x = x + self.attend(self.norms[2 * index](x), repeated=index > 0)
            x = x + mixture(self.norms[2 * index + 1](x))
        return self.head(x)
