"""Small models that run token by token: with states of their own, with a cache of keys and values, or both."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, run_names, run_passes
from autoconvert.tracing.one_step import trace_one_step
from autoconvert.tracing.past import past_of
from tests.models import CONTEXT, HEADS, VOCABULARY, WIDTH

Update = Callable[["Recurrent", Tensor, Tensor], tuple[Tensor, Tensor]]

# Attention of a query over keys and values, whose rows and columns are positions.
Look = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Recurrent(nn.Module):
    """A residual block whose state follows `update(self, x [batch, width], state) -> y, state`; loops over a text."""

    def __init__(self, update: Update, *state: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kernel = nn.Parameter(torch.randn(WIDTH, 3))
        self.update, self.shape = update, state
        self.eval()

    def forward(
        self, tokens: Tensor, state: list[Tensor] | None = None, use_cache: bool = False
    ) -> dict[str, Tensor | list[Tensor]]:
        x = self.embed(tokens)
        held = [torch.zeros(len(tokens), *self.shape) for _ in range(2)] if state is None else state
        for layer in range(2):
            if tokens.shape[1] == 1 and state is not None:
                y, after = self.update(self, x[:, 0], held[layer])
                held[layer].copy_(after)
                x = x + y[:, None]
                continue
            rows = []
            for row in x.unbind(1):
                y, held[layer] = self.update(self, row, held[layer])
                rows.append(row + y)
            x = torch.stack(rows, 1)
        return {"logits": self.head(x), "state": held}


class Stepping(nn.Module):
    """`step(self, tokens [batch, 1], states) -> logits [batch, width], states`, of which each text has zeros first."""

    def __init__(
        self, step: Callable[["Stepping", Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]], *states: tuple[int, ...]
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.square, self.gain = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3), nn.Parameter(torch.randn(WIDTH))
        self.step, self.states = step, states
        self.eval()

    def forward(self, tokens: Tensor, kept: list[Tensor] | None = None, use_cache: bool = False) -> dict[str, Any]:
        kept = [torch.zeros(len(tokens), *state) for state in self.states] if kept is None else kept
        rows = []
        for token in torch.split(tokens, 1, 1):
            x, kept = self.step(self, token, kept)
            rows.append(x)
        return {"logits": self.head(torch.stack(rows, 1)), "kept": kept}


def causal(query: Tensor, key: Tensor, value: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=column <= row)


class Cached(nn.Module):
    """One attention with a residual that keeps keys and values in transformers' cache."""

    def __init__(self, look: Look = causal) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.look = look
        self.eval()

    def forward(
        self, tokens: Tensor, past_key_values: DynamicCache | None = None, use_cache: bool = False
    ) -> dict[str, Any]:
        cache = DynamicCache() if past_key_values is None else past_key_values
        x = self.embed(tokens)
        query, key, value = (
            project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        row = cache.get_seq_length() + torch.arange(tokens.shape[1])[:, None]
        key, value = cache.update(key, value, 0)
        seen = self.look(query, key, value, row, torch.arange(key.shape[2])[None])
        return {"logits": self.head(x + seen.transpose(1, 2).flatten(2)), "past_key_values": cache}


def step_of(model: nn.Module) -> Program:
    return trace_one_step(model, past_of(model, CONTEXT), CONTEXT)


def run_through(program: Program, last: str) -> Program:
    """The program after all passes up to the run of this name."""
    names = run_names(PASSES)
    return run_passes(program, Options(CONTEXT, PATTERNS, lambda *_: None, CPU), PASSES[: names.index(last) + 1])
