"""A bidirectional encoder: tokens and a padding mask in, hidden states out, one signature and no state."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoconvert.ir.interface import Port, Role
from autoconvert.ir.model import Model, Signature
from autoconvert.ir.program import LENGTH, Program
from autoconvert.tracing.module import trace_module
from tests.models import assert_same, random_ids
from tests.tenants.parts import VOCABULARY, WIDTH, EncoderLayer, File, initialised, linked, padded, rewritten

LONGEST = 12
INPUTS = (
    Port("tokens", Role.TOKENS, torch.int64, (1, LENGTH)),
    Port("padding_mask", Role.PADDING_MASK, torch.bool, (1, LENGTH)),
)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers, self.norm = nn.ModuleList(EncoderLayer() for _ in range(2)), nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor, padding_mask: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x, padding_mask[:, None, None])
        result: Tensor = self.norm(x)
        return result


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return initialised(Encoder())


@pytest.fixture(scope="module")
def program(module: nn.Module) -> Program:
    traced = trace_module(module, INPUTS, [("hidden", Role.HIDDEN)], {LENGTH: LONGEST})
    return rewritten(traced, LONGEST)


@pytest.fixture(scope="module")
def file(module: nn.Module, program: Program, tmp_path_factory: pytest.TempPathFactory) -> File:
    model = Model({"encoder": program}, (Signature("encode", "encoder", {LENGTH: LONGEST}),))
    path: Path = tmp_path_factory.mktemp("encoder") / "model.tflite"
    return File(linked(model, module, path))


def test_its_blocks_are_fused_as_those_of_a_decoder(program: Program) -> None:
    assert program.fusion.blocks == {"norm": 5, "attention": 2}


def test_it_keeps_nothing(program: Program) -> None:
    assert program.states == () and program.streamed is None
    assert [port.role for port in program.inputs] == [Role.TOKENS, Role.PADDING_MASK]


def test_the_file_has_one_signature(file: File) -> None:
    assert file.signatures == {"encode": {"inputs": ["padding_mask", "tokens"], "outputs": ["hidden"]}}


@pytest.mark.parametrize("length", range(1, LONGEST + 1))
def test_the_file_gives_what_the_module_gives_with_padding_behind(file: File, module: nn.Module, length: int) -> None:
    tokens = random_ids(length, VOCABULARY - 1)
    with torch.no_grad():
        expected = module(torch.tensor([tokens]), torch.ones(1, length, dtype=torch.bool))
    ids, mask = padded(tokens, LONGEST)
    assert_same(file("encode", tokens=ids, padding_mask=mask)["hidden"][:, :length], expected)
