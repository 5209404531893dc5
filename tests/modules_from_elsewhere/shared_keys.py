"""What one layer computes serves others: keys and values of one layer or of the lower half, or the layer itself."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeysAndValues(nn.Module):
    """Multi-query keys and values of a normed input."""

    def __init__(self, hidden: int, head: int) -> None:
        super().__init__()
        self.kv, self.k_norm = nn.Linear(hidden, 2 * head, bias=False), nn.LayerNorm(head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.kv(x).split(self.kv.out_features // 2, dim=-1)
        return self.k_norm(key).unsqueeze(1), value.unsqueeze(1)


class BorrowingLayer(nn.Module):
    """Every second layer attends to the keys and values of the layer before (cross-layer attention, 2024)."""

    def __init__(self, hidden: int, head: int, owns: bool) -> None:
        super().__init__()
        self.head = head
        self.own = KeysAndValues(hidden, head) if owns else None
        self.norm, self.ff_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.wi, self.wo = nn.Linear(hidden, 3 * hidden), nn.Linear(3 * hidden // 2, hidden)

    def forward(self, x: Tensor, lent: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.norm(x)
        key_value = self.own(y) if self.own is not None else lent
        assert key_value is not None
        query = self.query(y).unflatten(-1, (-1, self.head)).transpose(1, 2)
        key, value = key_value
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        gate, value = self.wi(self.ff_norm(x)).chunk(2, dim=-1)
        return x + self.wo(torch.sigmoid(gate) * value), key_value


class Borrowing(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]; positions are learned."""

    def __init__(self, vocabulary: int = 53, hidden: int = 32) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, hidden), nn.Embedding(64, hidden)
        self.layers = nn.ModuleList(BorrowingLayer(hidden, 8, index % 2 == 0) for index in range(4))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[-1], device=tokens.device)).unsqueeze(0)
        key_value = None
        for layer in self.layers:
            x, key_value = layer(x, key_value)
        return F.linear(self.norm(x), self.wte.weight)


class UpperHalf(nn.Module):
    """Upper layers see only what the lower ones made, through torch's attention; one layer serves several depths."""

    def __init__(self, vocabulary: int = 53, d_model: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.d_model = nn.Embedding(vocabulary, d_model), d_model
        self.lower = nn.TransformerEncoderLayer(d_model, heads, 64, batch_first=True, activation=F.silu)
        self.depths = nn.Embedding(2, d_model)
        self.memory_norm = nn.LayerNorm(d_model)
        self.cross = nn.ModuleList(
            nn.MultiheadAttention(d_model, heads, batch_first=True, bias=False, kdim=d_model, vdim=d_model)
            for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(4))
        self.ffs = nn.ModuleList(
            nn.Sequential(nn.Linear(d_model, 64), nn.Hardswish(), nn.Linear(64, d_model)) for _ in range(2)
        )
        self.head = nn.Linear(d_model, vocabulary)

    def angles(self, length: int) -> Tensor:
        place = torch.arange(length, dtype=torch.float).unsqueeze(1)
        rate = torch.pow(1000.0, -torch.arange(0, self.d_model, 2) / self.d_model)
        return torch.stack((torch.sin(place * rate), torch.cos(place * rate)), dim=2).view(length, -1)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.size(1)
        later = ~torch.tril(torch.ones(length, length, dtype=torch.bool))
        x = self.embed(tokens) * self.d_model**0.5 + self.angles(length)
        for depth in range(2):
            x = self.lower(x + self.depths.weight[depth], src_mask=later)
        memory = self.memory_norm(x)
        for index, cross in enumerate(self.cross):
            attended = cross(self.norms[2 * index](x), memory, memory, attn_mask=later, need_weights=False)[0]
            x = x + attended
            x = x + self.ffs[index](self.norms[2 * index + 1](x))
        return self.head(x)
