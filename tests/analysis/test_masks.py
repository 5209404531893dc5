"""What a mask table is called, exactly: causal, windows, chunks, slopes, any other numbers; and what it must not be."""

import pytest
import torch
from torch import Tensor

from autoconvert.analysis.masks import Mask, classify_mask, same_mask
from autoconvert.ops.attention import CLOSED_BIAS

LENGTH = 12
ROWS, COLUMNS = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None]
CAUSAL = COLUMNS <= ROWS
SLOPES = torch.tensor([0.5, 0.125, 2 ** (-8 / 3)])


def hidden(visible: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return torch.where(visible, bias, torch.finfo(torch.float32).min)


NAMED: dict[str, tuple[Tensor, tuple[int, int]]] = {
    "causal": (CAUSAL, (0, 0)),
    "causal, added": (torch.full((1, 1, LENGTH, LENGTH), -torch.inf).triu(1), (0, 0)),
    "causal for two heads": (hidden(CAUSAL).expand(1, 2, -1, -1), (0, 0)),
    "window": (CAUSAL & (ROWS - COLUMNS < 3), (3, 0)),
    "window wider than the table": (CAUSAL & (ROWS - COLUMNS < 30), (0, 0)),
    "itself alone": (COLUMNS == ROWS, (1, 0)),
    "chunks": (CAUSAL & (ROWS // 5 == COLUMNS // 5), (0, 5)),
    "chunks of two": (CAUSAL & (ROWS // 2 == COLUMNS // 2), (0, 2)),
    "chunks longer than the table": (CAUSAL & (ROWS // 13 == COLUMNS // 13), (0, 0)),
    "a window in chunks": (CAUSAL & (ROWS // 5 == COLUMNS // 5) & (ROWS - COLUMNS < 3), (3, 5)),
    "a number for each query": (hidden(CAUSAL, torch.arange(LENGTH)[:, None] * 0.3), (0, 0)),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_hides_is_named(name: str) -> None:
    table, expected = NAMED[name]
    mask = classify_mask(table)
    assert isinstance(mask, Mask)
    assert (mask.window, mask.chunk_size) == expected
    assert mask.slopes is None
    assert mask.table is None


BIASES = {
    "by distance": SLOPES[:, None, None] * (COLUMNS - ROWS),
    "by key": SLOPES[:, None, None] * COLUMNS,
    "from the last key": SLOPES[:, None, None] * (COLUMNS - LENGTH + 1),
}


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("window", [LENGTH, 4])
def test_what_falls_with_the_distance_is_a_slope_for_each_head(name: str, window: int) -> None:
    distance = ROWS - COLUMNS
    visible = CAUSAL & (distance < window)
    mask = classify_mask(hidden(visible, BIASES[name])[None])
    assert isinstance(mask, Mask)
    assert mask.window == window % LENGTH
    assert mask.slopes is not None
    assert mask.table is None
    torch.testing.assert_close(mask.slopes, SLOPES)


def test_a_row_of_keys_alone_is_a_bias_to_all_queries() -> None:
    assert classify_mask(BIASES["by key"][None]) == "not causal: a position sees later ones"


def test_beside_a_sink_every_number_counts() -> None:
    """A sink joins the softmax with a number of its own, so that one number added to a row is no longer nothing."""
    table = hidden(CAUSAL, BIASES["by key"])
    mask = classify_mask(table, relative=False)
    assert isinstance(mask, Mask)
    assert mask.slopes is None
    assert mask.table is not None
    torch.testing.assert_close(mask.table[:, CAUSAL], BIASES["by key"].expand(3, LENGTH, -1)[:, CAUSAL])
    by_distance = classify_mask(hidden(CAUSAL, BIASES["by distance"]), relative=False)
    assert isinstance(by_distance, Mask)
    assert by_distance.slopes is not None


def test_other_numbers_are_a_table() -> None:
    bias = torch.randn(2, LENGTH, LENGTH)
    mask = classify_mask(hidden(CAUSAL, bias))
    assert isinstance(mask, Mask)
    assert (mask.window, mask.chunk_size, mask.slopes) == (0, 0, None)
    assert mask.table is not None
    softened, expected = ((hidden(CAUSAL) + x).softmax(-1) for x in (mask.table, bias))
    torch.testing.assert_close(softened, expected)


def test_one_number_that_differs_is_no_slope() -> None:
    bias = BIASES["by distance"].clone()
    bias[1, 7, 2] += 1e-3
    mask = classify_mask(hidden(CAUSAL, bias))
    assert isinstance(mask, Mask)
    assert mask.slopes is None
    assert mask.table is not None


def test_numbers_that_follow_the_distance_are_told_once_for_each() -> None:
    numbers = torch.randn(2, LENGTH, generator=torch.Generator().manual_seed(0))
    bias = numbers[:, (ROWS - COLUMNS).clamp(min=0)]
    mask = classify_mask(hidden(CAUSAL, bias))
    assert isinstance(mask, Mask)
    assert mask.distances is not None
    torch.testing.assert_close(mask.distances, numbers - numbers[:, :1])


def test_hidden_distances_are_told_once_for_each() -> None:
    mask = classify_mask(CAUSAL & ((ROWS - COLUMNS) % 2 == 0))
    assert isinstance(mask, Mask)
    assert mask.distances is not None
    assert mask.distances.eq(CLOSED_BIAS).tolist() == [[distance % 2 == 1 for distance in range(LENGTH)]]


HOLES = {
    "every third row": CAUSAL & ((ROWS % 3 == 0) | (ROWS == COLUMNS)),
    "another for each head": torch.stack([CAUSAL, CAUSAL & ((COLUMNS % 4 == 0) | (ROWS == COLUMNS))]),
    "one hole": CAUSAL & ~((ROWS == 7) & (COLUMNS == 2)),
}


@pytest.mark.parametrize("name", HOLES)
def test_what_else_is_hidden_is_a_table(name: str) -> None:
    visible = HOLES[name]
    mask = classify_mask(visible)
    assert isinstance(mask, Mask)
    assert mask.table is not None
    hides = mask.table == CLOSED_BIAS
    assert torch.equal(hides & CAUSAL, ~visible.expand_as(hides) & CAUSAL)
    assert not mask.table[~hides].any()


REFUSED = {
    "all open": (torch.ones(LENGTH, LENGTH) > 0, "sees later ones"),
    "almost open": (torch.full((LENGTH, LENGTH), -9e3).triu(1), "sees later ones"),
    "open for one head": (torch.stack([CAUSAL, CAUSAL | (COLUMNS == 3)]), "sees later ones"),
    "one step ahead": (COLUMNS <= ROWS + 1, "sees later ones"),
    "all closed": (torch.ones(LENGTH, LENGTH) < 0, "sees none"),
    "closed for one position": (CAUSAL & (ROWS != 5), "sees none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_cache_can_give_is_refused(name: str) -> None:
    table, reason = REFUSED[name]
    found = classify_mask(table)
    assert isinstance(found, str)
    assert reason in found


def at(length: int) -> Tensor:
    """MPT's bias: by the distance from the last key, so different at every length."""
    rows, columns = torch.arange(length)[:, None], torch.arange(length)[None]
    return hidden(columns <= rows, SLOPES[:, None, None] * (columns - length + 1))


def test_a_mask_is_the_same_where_no_softmax_tells_it_apart() -> None:
    assert same_mask(at(LENGTH), at(7))
    assert not same_mask(at(LENGTH), at(7), relative=False)
    assert not same_mask(at(LENGTH), at(7) * 1.001)
    assert not same_mask(CAUSAL & (ROWS - COLUMNS < 4), CAUSAL[:7, :7])
