"""What rounding costs, on a text."""

import math

import pytest
import torch
from torch.nn.functional import kl_div

from autoconvert.check.grade import Grade, grade, refuse_bad, shipped_text, tokens_to_grade
from autoconvert.errors import BadGrade
from autoconvert.packaging.passage import ENGLISH, Texts

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def logits(seed: int) -> torch.Tensor:
    return torch.randn(len(TOKENS), 10, generator=torch.Generator().manual_seed(seed))


def test_a_file_that_says_the_same_has_no_divergence() -> None:
    found = grade(TOKENS, logits(0), logits(0), bits=32.0)
    assert (found.divergence, found.same) == (0, 1)
    assert found.perplexity == found.model_perplexity


def test_figures_are_those_of_their_definitions() -> None:
    model, file = logits(0), logits(1)
    found = grade(TOKENS, model, iter(file), bits=4.5)
    divergence = kl_div(file.log_softmax(-1), model.log_softmax(-1), log_target=True, reduction="batchmean")
    losses = [torch.nn.functional.cross_entropy(each[:-1], torch.tensor(TOKENS[1:])) for each in (file, model)]
    assert found.divergence == pytest.approx(float(divergence), rel=1e-5)
    assert (found.perplexity, found.model_perplexity) == pytest.approx([math.exp(loss) for loss in losses], rel=1e-5)
    assert found.same == float((model.argmax(-1) == file.argmax(-1)).double().mean())


def test_a_token_that_the_model_rules_out_adds_nothing() -> None:
    model = logits(0)
    model[:, 0] = -torch.inf
    assert math.isfinite(grade(TOKENS, model, logits(1), 8.0).divergence)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_file_that_says_nothing_is_not_good(number: float) -> None:
    file = logits(1)
    file[2, 4] = number
    with pytest.raises(BadGrade, match="KL nan"):
        refuse_bad(grade(TOKENS, logits(0), file, 8.0), 0.5)


def test_what_is_beyond_the_limit_is_refused_with_its_figures() -> None:
    found = Grade(100, 4.5, 20.0, 10.0, 0.5, 0.7)
    refuse_bad(found, 0.7)
    with pytest.raises(BadGrade, match=r"4\.50 bits a weight.*KL 0\.7.*50\.0%.*KL 0\.5 is allowed") as caught:
        refuse_bad(found, 0.5)
    assert "--allow-bad-grade" in caught.value.hint


@pytest.mark.parametrize(
    ("parameters", "vocabulary", "context", "count"),
    [
        (1_000_000, 1000, 4096, 256),
        (1_000_000, 1000, 64, 64),
        (1_200_000_000, 128_000, 4096, 83),
        (10**10, 1000, 99, 48),
    ],
)
def test_a_large_model_is_graded_by_fewer_tokens(parameters: int, vocabulary: int, context: int, count: int) -> None:
    sizes = {"parameters": parameters, "vocabulary": vocabulary, "context": context}
    assert len(tokens_to_grade(lambda text: list(text.encode()), shipped_text(ENGLISH), **sizes)) == count


def test_a_tokenizer_without_english_is_graded_by_what_it_knows() -> None:
    assert len(shipped_text(ENGLISH)) > 2000
    assert shipped_text(Texts("abc ", "d")).startswith("abc abc ")
