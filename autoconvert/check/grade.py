"""What storing weights smaller costs on a text: how far the file's next tokens are from the model's.

The divergence is that of Kullback and Leibler, of the file's probabilities from the model's, in nats a token: what
tells two models apart that give the same perplexity.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import torch
from torch import Tensor

from autoconvert.errors import BadGrade
from autoconvert.packaging.passage import ENGLISH, Texts
from autoconvert.packaging.tokenizer_section import Encode
from autoconvert.quantization.choices import WORST_DIVERGENCE

# Of a text without an end, so many tokens are graded; fewer where the model is large or its vocabulary is.
_MOST_TOKENS, _LEAST_TOKENS = 256, 48
# Multiply-adds, a parameter and a token each, and logits that are kept.
_MULTIPLY_ADDS, _LOGITS = 100_000_000_000, 1 << 25


@dataclass(frozen=True)
class Grading:
    """What a file is graded by: a `text`, the one that ships where it is None, and the divergence in nats.

    Encodings are mixed for a file of `max_kl`, or of `target_size` bytes, where that is asked for. `allow_bad` says
    that a file of a bad grade is written too.
    """

    text: str | None = None
    max_kl: float | None = None
    target_size: int | None = None
    allow_bad: bool = False

    @property
    def worst(self) -> float:
        """The largest divergence of a file that is not bad."""
        return WORST_DIVERGENCE if self.max_kl is None else self.max_kl

    @property
    def is_asked_for(self) -> bool:
        return self != Grading()


@dataclass(frozen=True)
class Grade:
    """`tokens` of text were read. `same` is the share of positions where file and model put the same token first.

    `bits` are those of the file for a parameter of the model; `divergence` is in nats a token.
    """

    tokens: int
    bits: float
    perplexity: float
    model_perplexity: float
    same: float
    divergence: float

    def __str__(self) -> str:
        return (
            f"{self.bits:.2f} bits a weight; in {self.tokens} tokens of text KL {self.divergence:.2g}, the model's "
            f"next token {self.same:.1%}, perplexity {self.perplexity:.4g} ({self.model_perplexity:.4g} the model's)"
        )


def shipped_text(texts: Texts) -> str:
    """The text to grade by; where a tokenizer knows no English, what it does know."""
    if texts.passage != ENGLISH.passage:
        return texts.passage * 8
    return files("autoconvert.check").joinpath("grade_text.txt").read_text(encoding="utf-8")


def tokens_to_grade(encode: Encode, text: str, *, parameters: int, vocabulary: int, context: int) -> list[int]:
    """As many of the text's tokens as a model of this size reads in seconds, and a conversation has room for."""
    affordable = min(_MULTIPLY_ADDS // max(1, parameters), _LOGITS // vocabulary, _MOST_TOKENS)
    return list(encode(text))[: min(max(affordable, _LEAST_TOKENS), context)]


def grade(tokens: Sequence[int], expected: Tensor, logits: Iterable[Tensor], bits: float) -> Grade:
    """How far `logits`, [vocabulary] after each of `tokens`, are from those `expected`, [tokens, vocabulary]."""
    divergence, same, losses, model_losses = 0.0, 0, 0.0, 0.0
    following = [*tokens[1:], None]
    for row, found, token in zip(expected, logits, following, strict=True):
        model, file = row.double().log_softmax(-1), found.double().log_softmax(-1)
        divergence += _divergence(model, file)
        same += int(model.argmax() == file.argmax())
        if token is not None:
            losses -= float(file[token])
            model_losses -= float(model[token])
    count, followed = len(tokens), max(1, len(tokens) - 1)
    perplexity, of_model = (float(torch.tensor(each / followed).exp()) for each in (losses, model_losses))
    return Grade(count, bits, perplexity, of_model, same / count, divergence / count)


def divergence_of(expected: Tensor, logits: Tensor) -> float:
    """The mean divergence of `logits` [tokens, vocabulary] from those `expected`, in nats a token."""
    pairs = zip(expected, logits, strict=True)
    return sum(_divergence(*(row.double().log_softmax(-1) for row in pair)) for pair in pairs) / len(expected)


def _divergence(model: Tensor, file: Tensor) -> float:
    """Of log-probabilities [vocabulary]; a token that the model rules out adds nothing."""
    possible = model > -torch.inf
    return float((model.exp() * (model - file))[possible].sum())


def refuse_bad(found: Grade, most: float) -> None:
    """Raise BadGrade where the divergence is beyond `most`, or is no number."""
    if not found.divergence <= most:
        raise BadGrade(
            f"The file is the model, but rounding changes too much of what it says: {found}; KL {most:g} is allowed.",
            hint="Choose another --quantize, such as int8, another --max-kl, or --allow-bad-grade to keep such a file.",
        )
