"""`autoconvert.plan` takes what `convert` takes, and says what a refusal would be."""

import torch
from torch import Tensor

import autoconvert
from tests.models import CONTEXT, Decoder, tiny_llama


def test_a_module_is_planned_without_its_weights() -> None:
    model = tiny_llama()
    found = autoconvert.plan(model, context=CONTEXT, formats=("tflite",))
    assert found.wall is None and found.blocks["attention"] == 2
    assert found.parameters == sum(each.numel() for each in model.parameters())
    assert set(found.files) >= {"int8", "fp16", "none"}
    assert "context     32 positions" in str(found)


def test_what_would_be_refused_is_told_with_the_plan() -> None:
    def backwards(_: Decoder, x: Tensor) -> Tensor:
        return torch.flip(x, (1,))

    found = autoconvert.plan(Decoder(backwards), context=CONTEXT, formats=("tflite",))
    assert found.wall is not None
    assert f"refused: {found.wall.message}" in str(found)
