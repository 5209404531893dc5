"""As tutorials write it: torch's encoder layers over [length, batch, width], or a list of heads by hand."""

import math

import torch
from torch import Tensor, nn


class PositionalEncoding(nn.Module):
    """Sines and cosines in a buffer [longest, 1, width]."""

    pe: Tensor

    def __init__(self, d_model: int, dropout: float = 0.1, max_len: int = 100) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[: x.size(0)])


class TutorialTransformer(nn.Module):
    """forward(src [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, d_model: int = 32, nhead: int = 2, d_hid: int = 48) -> None:
        super().__init__()
        self.d_model = d_model
        self.pos_encoder = PositionalEncoding(d_model)
        layers = nn.TransformerEncoderLayer(d_model, nhead, d_hid, 0.1)
        self.transformer_encoder = nn.TransformerEncoder(layers, 2)
        self.embedding, self.linear = nn.Embedding(vocabulary, d_model), nn.Linear(d_model, vocabulary)

    def forward(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        src = self.embedding(src.transpose(0, 1)) * math.sqrt(self.d_model)
        src = self.pos_encoder(src)
        if src_mask is None:
            src_mask = nn.Transformer.generate_square_subsequent_mask(len(src))
        output = self.linear(self.transformer_encoder(src, src_mask))
        return output.permute(1, 0, 2)


class Head(nn.Module):
    """One head by itself, with its own triangle."""

    tril: Tensor

    def __init__(self, n_embd: int, head_size: int, block_size: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(n_embd, head_size, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        _, T, C = x.shape
        k, q = self.key(x), self.query(x)
        wei = q @ k.transpose(-2, -1) * C**-0.5
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        wei = self.dropout(torch.softmax(wei, dim=-1))
        return wei @ self.value(x)


class MultiHead(nn.Module):
    """Heads one after another, put side by side."""

    def __init__(self, n_embd: int, n_head: int, block_size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(n_embd, n_embd // n_head, block_size) for _ in range(n_head))
        self.proj = nn.Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.cat([h(x) for h in self.heads], dim=-1))


class HeadByHead(nn.Module):
    """forward(idx [batch, length]) gives (logits [batch, length, vocabulary], None)."""

    def __init__(self, vocabulary: int = 53, n_embd: int = 32, n_head: int = 4, block_size: int = 64) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocabulary, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd)
        self.sa = nn.ModuleList(MultiHead(n_embd, n_head, block_size) for _ in range(2))
        self.ffwd = nn.ModuleList(
            nn.Sequential(nn.Linear(n_embd, 2 * n_embd), nn.ReLU(), nn.Linear(2 * n_embd, n_embd)) for _ in range(2)
        )
        self.lns = nn.ModuleList(nn.LayerNorm(n_embd) for _ in range(5))
        self.lm_head = nn.Linear(n_embd, vocabulary)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        _, T = idx.shape
        x = self.token_embedding_table(idx) + self.position_embedding_table(torch.arange(T, device=idx.device))
        for layer in range(2):
            x = x + self.sa[layer](self.lns[2 * layer](x))
            x = x + self.ffwd[layer](self.lns[2 * layer + 1](x))
        return self.lm_head(self.lns[4](x)), None
