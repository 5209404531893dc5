"""A guard that only a layout needs does not make a trace hold for some lengths alone."""

import pytest
import torch
from torch import Tensor, nn

from autoconvert.errors import Inseparable
from autoconvert.tracing.layout_guards import without_layout_guards
from autoconvert.tracing.trace import trace
from tests import models
from tests.models import Decoder


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        windows = torch.nn.functional.pad(x, (0, 0, 3, 0)).unfold(1, 4, 1)
        return (windows * windows).sum(-1)


def _exported(length: torch.export.Dim) -> None:
    torch.export.export(Windows(), (torch.randn(1, 7, 8),), dynamic_shapes=({1: length},))


def test_torch_guards_lengths_for_strides_and_has_a_switch_against_it() -> None:
    """If the first fails, torch does without such guards, and the switch may go."""
    with pytest.raises(Exception, match="length"):
        _exported(torch.export.Dim("length", min=2, max=64))
    with without_layout_guards():
        _exported(torch.export.Dim("length", min=2, max=64))


def test_a_trace_whose_strides_alone_depend_on_the_length_holds_at_every_length() -> None:
    program = trace(Decoder(lambda _, x: x + Windows()(x)), models.CONTEXT)
    assert str(program.result(program.outputs[0].role).meta["val"].shape[1]) == str(program.symbols["length"])


def test_a_decision_of_the_model_by_its_length_is_still_refused() -> None:
    with pytest.raises(Inseparable, match=r"decides by the length of its text|takes another path"):
        trace(Decoder(lambda decoder, x: x * decoder.gain if x.shape[1] > 4 else x), models.CONTEXT)
