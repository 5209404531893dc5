"""Decoders that nobody's library knows, each in a style of its own, convert as they are, or are refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

import autoconvert
from autoconvert.check.parity import distance, random_tokens
from autoconvert.errors import Refused
from autoconvert.runtime.runner import open_file
from tests import models
from tests.modules_from_elsewhere.complex_rotary import ComplexRotary
from tests.modules_from_elsewhere.decoders import PATTERNS_OF, REFUSED
from tests.modules_from_elsewhere.dense_mixture import MixtureDecoder
from tests.modules_from_elsewhere.einsum_decoder import EinsumDecoder

VOCABULARY = 53


def decoder(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return models.noisy(kind())


@pytest.mark.parametrize("kind", PATTERNS_OF)
def test_chunks_give_what_the_module_gives(kind: type[nn.Module]) -> None:
    module = decoder(kind)
    program = models.rewrite(module)
    assert set(program.fusion.patterns) == PATTERNS_OF[kind]
    models.assert_chunks_give_what_the_model_gives(program, module, VOCABULARY)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_covered_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(Refused, match=REFUSED[kind]):
        models.rewrite(decoder(kind))


@pytest.mark.parametrize("kind", [ComplexRotary, EinsumDecoder, MixtureDecoder])
def test_the_file_gives_what_the_module_gives(kind: type[nn.Module], tmp_path: Path) -> None:
    module, tokens = decoder(kind), random_tokens(24, VOCABULARY)
    bundle = autoconvert.convert(
        module, tmp_path / "out", quantize="none", context=24, prefill=(6,), formats=("tflite",)
    )
    with open_file(bundle.files["tflite"]) as runner:
        logits = torch.stack([runner.logits_at(tokens, position) for position in range(24)])
    assert float(distance(logits, models.logits_of_source(module, tokens)).max()) < 1e-4
