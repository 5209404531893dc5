"""As the first libraries wrote decoders: masks of large numbers, weights stored [in, out], heads in the batch."""

import math

import torch
from torch import Tensor, nn


class Conv1D(nn.Module):
    """A projection whose weight is [in, out]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.w, self.b = nn.Parameter(torch.randn(nx, nf) * nx**-0.5), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.b, x.view(-1, x.size(-1)), self.w).view(*size_out)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class ProductMask(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]; positions are rows of one table."""

    b: Tensor

    def __init__(self, vocabulary: int = 53, nx: int = 32, n_head: int = 4, n_ctx: int = 64) -> None:
        super().__init__()
        self.vocabulary, self.n_head = vocabulary, n_head
        self.embed = nn.Embedding(vocabulary + n_ctx, nx)
        self.register_buffer("b", torch.tril(torch.ones(n_ctx, n_ctx)).view(1, 1, n_ctx, n_ctx))
        self.c_attn, self.c_proj = (nn.ModuleList(Conv1D(nf, nx) for _ in range(2)) for nf in (3 * nx, nx))
        self.c_fc = nn.ModuleList(Conv1D(2 * nx, nx) for _ in range(2))
        self.mlp_proj = nn.ModuleList(Conv1D(nx, 2 * nx) for _ in range(2))
        self.ln_1, self.ln_2 = (nn.ModuleList(nn.LayerNorm(nx) for _ in range(2)) for _ in range(2))

    def split_heads(self, x: Tensor, k: bool = False) -> Tensor:
        x = x.view(*x.size()[:-1], self.n_head, x.size(-1) // self.n_head)
        return x.permute(0, 2, 3, 1) if k else x.permute(0, 2, 1, 3)

    def attend(self, x: Tensor, layer: int) -> Tensor:
        query, key, value = self.c_attn[layer](x).split(x.size(-1), dim=2)
        query, key, value = self.split_heads(query), self.split_heads(key, k=True), self.split_heads(value)
        w = torch.matmul(query, key) / math.sqrt(value.size(-1))
        b = self.b[:, :, : w.size(-2), : w.size(-1)]
        w = nn.functional.softmax(w * b + -1e4 * (1 - b), dim=-1)
        a = torch.matmul(w, value).permute(0, 2, 1, 3).contiguous()
        return self.c_proj[layer](a.view(*a.size()[:-2], a.size(-2) * a.size(-1)))

    def forward(self, tokens: Tensor) -> Tensor:
        position_ids = torch.arange(self.vocabulary, self.vocabulary + tokens.size(-1)).unsqueeze(0)
        h = self.embed(tokens) + self.embed(position_ids)
        for layer in range(2):
            n = self.ln_1[layer](h + self.attend(h, layer))
            h = self.ln_2[layer](n + self.mlp_proj[layer](swish(self.c_fc[layer](n))))
        return torch.matmul(h, self.embed.weight[: self.vocabulary].t())


class SelfAttentionOfBatches(nn.Module):
    """Heads in the batch, scores by bmm, clamped from below; the mask comes in as [batch, 1, length, length]."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(embed_dim, embed_dim) for _ in range(4))

    def _shape(self, tensor: Tensor, seq_len: int, bsz: int) -> Tensor:
        return tensor.view(bsz, seq_len, self.num_heads, self.head_dim).transpose(1, 2).contiguous()

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        bsz, tgt_len, embed_dim = hidden.size()
        flat = (bsz * self.num_heads, -1, self.head_dim)
        query = self._shape(self.q_proj(hidden) * self.head_dim**-0.5, tgt_len, bsz).view(*flat)
        key = self._shape(self.k_proj(hidden), tgt_len, bsz).view(*flat)
        value = self._shape(self.v_proj(hidden), tgt_len, bsz).view(*flat)
        weights = torch.bmm(query, key.transpose(1, 2)).view(bsz, self.num_heads, tgt_len, tgt_len) + attention_mask
        weights = torch.max(weights, torch.tensor(torch.finfo(weights.dtype).min))
        weights = nn.functional.softmax(weights.view(bsz * self.num_heads, tgt_len, tgt_len), dim=-1)
        output = torch.bmm(weights, value).view(bsz, self.num_heads, tgt_len, self.head_dim)
        return self.out_proj(output.transpose(1, 2).reshape(bsz, tgt_len, embed_dim))


class OffsetPositions(nn.Module):
    """forward(tokens [batch, length]) gives logits [batch, length, vocabulary]; positions count a mask of ones."""

    def __init__(self, vocabulary: int = 53, embed_dim: int = 24, hidden: int = 32, num_heads: int = 4) -> None:
        super().__init__()
        self.embed_tokens, self.embed_positions = nn.Embedding(vocabulary, embed_dim), nn.Embedding(64 + 2, hidden)
        self.project_in, self.project_out = (
            nn.Linear(*sizes, bias=False) for sizes in ((embed_dim, hidden), (hidden, embed_dim))
        )
        self.self_attn = nn.ModuleList(SelfAttentionOfBatches(hidden, num_heads) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(5))
        self.fc1, self.fc2 = (nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2)) for _ in range(2))

    def causal_mask(self, attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
        bsz, length = attention_mask.shape
        mask = torch.full((length, length), torch.finfo(dtype).min)
        mask_cond = torch.arange(mask.size(-1))
        mask.masked_fill_(mask_cond < (mask_cond + 1).view(mask.size(-1), 1), 0)
        expanded = attention_mask[:, None, None, :].expand(bsz, 1, length, length).to(dtype)
        inverted = 1.0 - expanded
        return inverted.masked_fill(inverted.to(torch.bool), torch.finfo(dtype).min) + mask[None, None]

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones(tokens.shape, device=tokens.device)
        positions = torch.cumsum(attention_mask.long(), dim=1).type_as(attention_mask) * attention_mask
        x = self.project_in(self.embed_tokens(tokens)) + self.embed_positions(positions.long() - 1 + 2)
        mask = self.causal_mask(attention_mask, x.dtype)
        for layer, attention in enumerate(self.self_attn):
            x = x + attention(self.norms[2 * layer](x), mask)
            shape = x.shape
            flat = x.reshape(-1, x.size(-1))
            y = self.fc2[layer](torch.relu(self.fc1[layer](self.norms[2 * layer + 1](flat))))
            x = (flat + y).view(shape)
        return self.project_out(self.norms[-1](x)) @ self.embed_tokens.weight.T
