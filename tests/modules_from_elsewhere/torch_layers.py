"""What torch itself has: nn.TransformerEncoder with a causal mask, and nn.MultiheadAttention called by hand."""

import torch
from torch import Tensor, nn


class TorchLayers(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int = 53, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=32, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.embed(tokens) + self.places(torch.arange(length))
        x = self.encoder(x, mask=mask, is_causal=True)
        y = self.norm(x)
        attended, _ = self.attention(y, y, y, attn_mask=mask.isinf(), need_weights=False)
        return self.head(x + attended)
