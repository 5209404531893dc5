"""How well a causal language model predicts documents, every token scored once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Score:
    """A sum of -ln p over `tokens` tokens that spell `bytes` bytes of text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp of the mean -ln p of a token."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """-log2 p for each byte of text, which compares across tokenizers."""
        return self.nats / math.log(2) / self.bytes


@torch.inference_mode()
def negative_log_likelihood(model: nn.Module, document: Sequence[int], context: int) -> float:
    """Sum of -ln p over all tokens of `document` but the first, in nats.

    `model` gives `.logits` [1, length, vocabulary] for int64 tokens [1, length]. A document longer than
    `context` tokens is read in windows that overlap by half, so that a token sees at least context / 2
    tokens before it.
    """
    tokens = torch.tensor([document])
    total, scored = 0.0, 1
    for start in range(0, max(len(document) - context // 2, 1), context // 2):
        window = tokens[:, start : start + context]
        logits: Tensor = model(input_ids=window, use_cache=False).logits[0, :-1].float()
        fresh = scored - start - 1
        total += cross_entropy(logits[fresh:], window[0, 1 + fresh :], reduction="sum").item()
        scored = start + window.shape[1]
    return total
