"""Products with weights whose results get another axis, of which the converter and the runtime think differently."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.lowering.on_device import lowered, operations, run


def beside_streams(streams: Tensor, strengths: Tensor, heads: Tensor, weight: Tensor) -> Tensor:
    """What attention [1, s, heads, width] gives is added to each of several residual streams [1, s, streams, width]."""
    attended = F.linear(heads.sigmoid().reshape(1, heads.shape[1], -1), weight)
    return streams + strengths.unsqueeze(-1) * attended.unsqueeze(-2)


def test_a_product_beside_streams_has_the_axes_that_the_model_gives_it() -> None:
    given = torch.randn(1, 5, 3, 6), torch.randn(1, 5, 3), torch.randn(1, 5, 2, 2), torch.randn(6, 4)
    (result,) = run(lowered(beside_streams, *given), *given)
    torch.testing.assert_close(result, beside_streams(*given))


def test_a_product_that_needs_no_other_axes_stays_alone() -> None:
    assert "RESHAPE" not in operations(lowered(F.linear, torch.randn(1, 5, 4), torch.randn(6, 4)))
