"""What float32 makes of a source beside float64: much where it magnifies rounding, next to nothing elsewhere."""

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
