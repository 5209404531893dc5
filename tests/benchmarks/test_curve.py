"""The line through the costs of several numbers of layers, and how they are shown."""

from pathlib import Path

import curve
import pytest

LAYERS = (4, 8, 16)
POINTS = [curve.Point(n, n * 10**8, 10 + 0.5 * n, 12.0, 1_200_000_000 + n * 2_000_000) for n in LAYERS]


def test_a_line_is_found_where_there_is_one() -> None:
    assert curve.straight_line(LAYERS, [10 + 0.5 * n for n in LAYERS]) == pytest.approx((10, 0.5, 1))


def test_what_does_not_grow_in_a_line_says_so() -> None:
    layers = (1, 2, 4, 8)
    assert curve.straight_line(layers, [n**3 for n in layers])[2] < 0.95


def test_the_document_has_a_row_for_each_conversion() -> None:
    text = curve.render("llama", POINTS, runs=3)
    assert "| 16 | 1.60 GB | 18.0 s | 12.0 s | 1.23 GB |" in text
    assert "10.0 s and 0.50 s a layer (R² = 1.000)" in text
    assert "1.20 GB and 2.0 MB a layer" in text


def test_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one.svg", "other.svg"):
        curve.draw(POINTS, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
