"""What float32 makes of a source beside float64: much where it magnifies rounding, next to nothing elsewhere."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoconvert
from autoconvert.check.expected import Expected
from autoconvert.check.parity import TOLERANCE, Reference
from autoconvert.check.readings import Reading, token_by_token
from autoconvert.source.source import load_source


class Waves(nn.Module):
    """Logits of a table's row alone, by waves so short that the last bits of a number decide where on them it lies."""

    def __init__(self, magnified: float) -> None:
        super().__init__()
        self.magnified = magnified
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.middle = nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.sin(self.magnified * self.middle(self.table(tokens))))
        return logits


@pytest.mark.parametrize(("magnified", "much"), [(1.0, False), (1e4, True)])
def test_a_source_is_as_far_from_float64_as_it_magnifies_rounding(magnified: float, much: bool) -> None:
    expected = Expected(load_source(Waves(magnified).eval()))
    found = expected.rounding(token_by_token(8, 50))
    assert found is not None
    assert bool((found > TOLERANCE).all()) == much
    assert much or bool((found < TOLERANCE / 10).all())


class InSingle(Waves):
    """Its waves are float32 whatever comes in."""

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.table(tokens)
        weight, bias = self.middle.weight.float() + 0.0, torch.zeros(32, dtype=torch.float32)
        waves = torch.sin(self.magnified * (rows.float() @ weight.mT + bias))
        logits: Tensor = self.head(waves.to(rows.dtype))
        return logits


def test_a_source_is_asked_in_float64_where_its_own_code_asks_for_less() -> None:
    found = Expected(load_source(InSingle(1e4).eval())).rounding(token_by_token(8, 50))
    assert found is not None
    assert bool((found > TOLERANCE).all())
    assert torch.get_default_dtype() == torch.float32


class Stepping(nn.Module):
    """Token by token it rounds its waves to fewer digits, and moves them `apart` from those of a whole text."""

    def __init__(self, apart: float) -> None:
        super().__init__()
        self.waves, self.apart = Waves(1.0), apart

    def forward(self, tokens: Tensor, state: list[Tensor] | None = None, use_cache: bool = False) -> dict[str, Any]:
        waves = self.waves
        x = waves.middle(waves.table(tokens))
        if state is not None:
            # Whole turns change no wave, but how many digits of it are left.
            x = (x + 2**12 * 2 * math.pi) - 2**12 * 2 * math.pi + self.apart
        return {"logits": waves.head(torch.sin(x)), "state": [torch.zeros(len(tokens), 1)]}


@pytest.mark.parametrize(("apart", "much"), [(0.0, True), (1e-3, False)])
def test_the_way_that_float32_rounds_more_counts_if_both_are_one_model(apart: float, much: bool) -> None:
    found = Expected(load_source(Stepping(apart).eval())).rounding(token_by_token(8, 50))
    assert found is not None
    # The first token has no past: it is a whole text.
    assert bool((found[1:] > TOLERANCE).all()) == much
    assert much or bool((found < TOLERANCE / 10).all())


class OnlySingle(Waves):
    def forward(self, tokens: Tensor) -> Tensor:
        assert self.table(tokens).dtype == torch.float32 or self._refuse()
        return super().forward(tokens)

    def _refuse(self) -> bool:
        raise RuntimeError("float32 is needed")


def test_of_a_source_that_knows_no_float64_nothing_is_said() -> None:
    assert Expected(load_source(OnlySingle(1.0).eval())).rounding(token_by_token(8, 50)) is None


def test_a_bug_of_ours_is_no_text_that_the_source_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {}
    exec(compile("def placed(*_):\n    raise RuntimeError('a bug')", autoconvert.__file__, "exec"), names)
    monkeypatch.setattr(Reference, "placed", names["placed"])
    expected, reading = Expected(load_source(Waves(1.0).eval())), Reading(3, ((2, 2),), 50)
    with pytest.raises(RuntimeError, match="a bug"):
        expected.logits(reading)
