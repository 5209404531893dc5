"""A signature taken apart: each piece is a file that does what its operations do in the whole one."""

from pathlib import Path

import torch

from autoconvert.lowering import flatbuffer
from autoconvert.runtime.steps import Piece, SteppedFile
from tests.lowering.on_device import lowered, postponed
from tests.lowering.test_flatbuffer import scalar


def test_an_empty_constant_is_a_constant_of_its_piece(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = flatbuffer.merge([flatbuffer.read_model(lowered(scalar, torch.tensor([2.0, 3.0])))])
    path.write_bytes(flatbuffer.write_model(whole))
    stepped = SteppedFile(path, weights=())
    (signature,) = stepped.signatures.values()
    (piece,) = signature.steps
    assert isinstance(piece, Piece)
    assert not postponed(stepped.file_of(signature, piece), (2,))
