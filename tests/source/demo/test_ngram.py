import math
import random
from itertools import product

import pytest

from autoconvert.source.demo import ngram

START, A, B, C, D, UNSEEN = range(6)


def small_corpus() -> list[list[int]]:
    choice = random.Random(3)
    return [[START, *choice.choices([A, B, C, D], [8, 4, 2, 1], k=choice.randint(1, 30))] for _ in range(20)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_after_any_history(order: int) -> None:
    model = ngram.train(small_corpus(), vocabulary=6, order=order)
    for length in range(4):
        for history in product(range(6), repeat=length):
            total = sum(model.probability(history, token) for token in range(6))
            assert total == pytest.approx(1, abs=1e-12)
            assert all(model.probability(history, token) > 0 for token in range(6))


def test_bigram_equals_the_formula_worked_by_hand() -> None:
    # Too few counts to estimate discounts from: a count of 1 gives away 1/2, of 2 gives away 1.
    model = ngram.train([[START, A, B], [START, A, B], [START, A, C]], vocabulary=4, order=2)
    # Continuations: A after START only, B after A only, C after A only: each 1 of 3, each gives away 1/2.
    unigram = dict.fromkeys((A, B, C), (0.5 + 1.5 / 4) / 3)
    assert model.probability([], B) == pytest.approx(unigram[B])
    # After A: B twice, C once; 1 + 1/2 of 3 is freed.
    assert model.probability([A], B) == pytest.approx((1 + 1.5 * unigram[B]) / 3)
    assert model.probability([A], C) == pytest.approx((0.5 + 1.5 * unigram[C]) / 3)
    assert model.probability([A], START) == pytest.approx(1.5 * (1.5 / 4 / 3) / 3)
    assert model.probability([B], C) == model.probability([], C), "nothing ever followed B"


def test_a_word_that_follows_one_word_only_is_rare_elsewhere() -> None:
    # B is as frequent as C, but only ever comes after A.
    documents = [[START, A, B, D, C, A, C, C, D, C], [START, A, B, C, D, A, B, C, A, B]] * 5
    model = ngram.train(documents, vocabulary=6, order=2)
    assert model.probability([], B) < model.probability([], C)


def test_a_longer_history_predicts_a_repeating_text_better() -> None:
    choice = random.Random(0)
    phrases = [[A, B, C], [A, C, D], [D, B, A]]
    documents = [[START, *(t for p in choice.choices(phrases, k=50) for t in p)] for _ in range(6)]
    train, heldout = documents[:5], documents[5]
    nats = [ngram.train(train, 6, order).negative_log_likelihood(heldout) for order in (1, 2, 3)]
    assert nats[0] > nats[1] > nats[2]
    tokens = len(heldout) - 1
    assert math.exp(nats[2] / tokens) < 2


def test_discounts_come_from_the_counts_of_counts() -> None:
    # Four words once, two twice, one three times, one four times after START: Y = 4 / (4 + 2*2) = 1/2.
    times = {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 3, 8: 4}
    model = ngram.train([[START, word] for word, count in times.items() for _ in range(count)], 9, order=2)
    assert model.backoffs[1].discounts == pytest.approx((0.5, 2 - 3 * 0.5 * 1 / 2, 3 - 4 * 0.5 * 1 / 1))
