"""Residuals through gates: a recurrent unit's gate over depth, with torch's own attention of [length, batch, width]."""

import torch
from torch import Tensor, nn


class GRUGate(nn.Module):
    """x and y as a gated recurrent unit joins them (GTrXL, 2019)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.Wr, self.Ur, self.Wz, self.Uz, self.Wg, self.Ug = (nn.Linear(d, d, bias=False) for _ in range(6))
        self.bg = nn.Parameter(torch.full((d,), 0.1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        r = torch.sigmoid(self.Wr(y) + self.Ur(x))
        z = torch.sigmoid(self.Wz(y) + self.Uz(x) - self.bg)
        h = torch.tanh(self.Wg(y) + self.Ug(torch.mul(r, x)))
        return torch.mul(1 - z, x) + torch.mul(z, h)


class GatedLayer(nn.Module):
    """Attention whose averaged weights are returned and not used."""

    def __init__(self, d: int, nhead: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(d, nhead, dropout=0.1, add_bias_kv=False)
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.gate1, self.gate2 = GRUGate(d), GRUGate(d)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.ELU(), nn.Dropout(0.1), nn.Linear(2 * d, d))

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        y = self.ln1(x)
        y, _ = self.attn(y, y, y, attn_mask=attn_mask, need_weights=True)
        x = self.gate1(x, torch.relu(y))
        return self.gate2(x, torch.relu(self.mlp(self.ln2(x))))


class GatedDecoder(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, d: int = 32, nhead: int = 4, max_len: int = 64) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocabulary, d)
        self.pos = nn.Parameter(torch.zeros(max_len, 1, d))
        self.layers = nn.ModuleList(GatedLayer(d, nhead) for _ in range(2))
        self.proj = nn.Linear(d, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok(tokens.t())
        x = x + self.pos[: x.size(0)]
        mask = torch.triu(torch.ones(x.size(0), x.size(0), device=x.device) * float("-inf"), diagonal=1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.proj(x).transpose(0, 1)
