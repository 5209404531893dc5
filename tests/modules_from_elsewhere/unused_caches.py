"""Arguments for later that a whole text leaves alone: lists of caches that are given back, masks, positions, labels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = tuple[Tensor, Tensor]


class Args(NamedTuple):
    """Sizes of the decoder."""

    vocab_size: int
    dims: int = 32
    num_heads: int = 4
    num_layers: int = 2
    traditional: bool = True


class RoPE(nn.Module):
    """Rotary that starts at an offset."""

    def __init__(self, dims: int, traditional: bool, base: float = 1000.0) -> None:
        super().__init__()
        self.dims, self.traditional, self.base = dims, traditional, base

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        positions = torch.arange(offset, offset + x.shape[-2], dtype=x.dtype)
        freqs = torch.exp(-torch.arange(0.0, self.dims // 2) * (torch.log(torch.tensor(self.base)) / (self.dims // 2)))
        theta = positions.reshape(-1, 1) * freqs.reshape(1, -1)
        costheta, sintheta = torch.cos(theta), torch.sin(theta)
        x1, x2 = (x[..., ::2], x[..., 1::2]) if self.traditional else x.chunk(2, dim=-1)
        rx1, rx2 = x1 * costheta - x2 * sintheta, x1 * sintheta + x2 * costheta
        if not self.traditional:
            return torch.cat([rx1, rx2], dim=-1)
        return torch.cat([rx1[..., None], rx2[..., None]], dim=-1).reshape(x.shape)


class CachedAttention(nn.Module):
    """Keys and values are joined to a cache's, if there is one."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.num_heads, dims = args.num_heads, args.dims
        self.rope = RoPE(dims // args.num_heads, args.traditional)
        self.query_proj, self.key_proj, self.value_proj, self.out_proj = (
            nn.Linear(dims, dims, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None) -> tuple[Tensor, Cache]:
        B, L, _ = x.shape
        queries, keys, values = (
            f(x).reshape(B, L, self.num_heads, -1).permute(0, 2, 1, 3)
            for f in (self.query_proj, self.key_proj, self.value_proj)
        )
        if cache is not None:
            offset = cache[0].shape[2]
            queries, keys = self.rope(queries, offset), self.rope(keys, offset)
            keys, values = torch.cat([cache[0], keys], dim=2), torch.cat([cache[1], values], dim=2)
        else:
            queries, keys = self.rope(queries), self.rope(keys)
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.permute(0, 1, 3, 2)
        if mask is not None:
            scores = scores + mask
        weights = torch.softmax(scores, dim=-1)
        return self.out_proj((weights @ values).permute(0, 2, 1, 3).reshape(B, L, -1)), (keys, values)


class UnusedCaches(nn.Module):
    """forward(x [batch, length]) gives (logits [batch, length, vocabulary], caches)."""

    def __init__(self, vocabulary: int = 53) -> None:
        super().__init__()
        self.args = args = Args(vocabulary)
        self.embedding = nn.Embedding(args.vocab_size, args.dims)
        self.attention = nn.ModuleList(CachedAttention(args) for _ in range(args.num_layers))
        self.norm1, self.norm2 = (nn.ModuleList(nn.RMSNorm(args.dims) for _ in range(2)) for _ in range(2))
        self.linear1, self.linear2 = (
            nn.ModuleList(nn.Linear(args.dims, 64, bias=False) for _ in range(2)) for _ in range(2)
        )
        self.linear3 = nn.ModuleList(nn.Linear(64, args.dims, bias=False) for _ in range(2))
        self.norm, self.out_proj = nn.RMSNorm(args.dims), nn.Linear(args.dims, args.vocab_size, bias=False)

    def forward(self, x: Tensor, caches: list[Cache | None] | None = None) -> tuple[Tensor, list[Cache]]:
        mask = None
        if x.shape[1] > 1:
            indices = torch.arange(x.shape[1])
            mask = (indices[:, None] < indices[None]) * -1e9
        h = self.embedding(x)
        kept = []
        for layer, attention in enumerate(self.attention):
            y, cache = attention(self.norm1[layer](h), mask, None if caches is None else caches[layer])
            kept.append(cache)
            h = h + y
            y = self.norm2[layer](h)
            a, b = self.linear1[layer](y), self.linear2[layer](y)
            h = h + self.linear3[layer](a * torch.sigmoid(a) * b)
        return self.out_proj(self.norm(h)), kept


class ExtendedMask(nn.Module):
    """forward(input_ids [batch, length]) gives a dict with logits: an encoder's code used as a decoder, norms last."""

    position_ids: Tensor

    def __init__(self, vocabulary: int = 53, hidden_size: int = 32, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_size = num_heads, hidden_size // num_heads
        self.word_embeddings = nn.Embedding(vocabulary, hidden_size, padding_idx=0)
        self.position_embeddings, self.token_type_embeddings = (
            nn.Embedding(64, hidden_size),
            nn.Embedding(2, hidden_size),
        )
        self.register_buffer("position_ids", torch.arange(64).expand((1, -1)), persistent=False)
        self.query, self.key, self.value, self.dense = (
            nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(2)) for _ in range(4)
        )
        self.intermediate = nn.ModuleList(nn.Linear(hidden_size, 64) for _ in range(2))
        self.output = nn.ModuleList(nn.Linear(64, hidden_size) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size, eps=1e-12) for _ in range(6))
        self.transform = nn.Linear(hidden_size, hidden_size)
        self.decoder_bias = nn.Parameter(torch.zeros(vocabulary))

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        return x.view(*x.size()[:-1], self.num_heads, self.head_size).permute(0, 2, 1, 3)

    def extended(self, mask: Tensor) -> Tensor:
        batch, length = mask.shape
        ids = torch.arange(length)
        causal = ids[None, None, :].repeat(batch, length, 1) <= ids[None, :, None]
        extended = causal.to(mask.dtype)[:, None, :, :] * mask[:, None, None, :]
        return (1.0 - extended) * -10000.0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        shape = input_ids.size()
        mask = self.extended(torch.ones(shape) if attention_mask is None else attention_mask.float())
        types = torch.zeros(shape, dtype=torch.long) if token_type_ids is None else token_type_ids
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(types)
        x = self.norms[0](x + self.position_embeddings(self.position_ids[:, : shape[1]]))
        for i in range(2):
            q, k, v = (self.transpose_for_scores(f[i](x)) for f in (self.query, self.key, self.value))
            scores = torch.matmul(q, k.transpose(-1, -2)) / self.head_size**0.5 + mask
            context = torch.matmul(nn.functional.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
            x = self.norms[2 * i + 1](self.dense[i](context.view(*context.size()[:-2], -1)) + x)
            x = self.norms[2 * i + 2](self.output[i](F.gelu(self.intermediate[i](x))) + x)
        x = self.norms[5](F.gelu(self.transform(x)))
        out = {"logits": F.linear(x, self.word_embeddings.weight, self.decoder_bias)}
        if labels is not None:
            out["loss"] = F.cross_entropy(out["logits"].flatten(0, 1), labels.flatten())
        return out
