"""The tensors of GGUF files, decoded as they are asked for: blocks of few bits become float32, some rows at a time."""

import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from autoconvert.errors import InputError, MachineError
from autoconvert.source.file_state import FileState, changed, state_of
from autoconvert.source.gguf_header import AGAIN, Entry, Header, read_header
from autoconvert.system.hashing import PIECE

# Numbers that are decoded at a time: the decoder makes several copies of them.
_TILE = 1 << 20
_FLOATS = {
    GGMLQuantizationType.F32: "float32",
    GGMLQuantizationType.F16: "float16",
    GGMLQuantizationType.BF16: "bfloat16",
}


class GgufCheckpoint:
    """As `StoredWeights`, the tensors of one file or of all its parts, by the names that they have there.

    All of them are float32, the exact values that the format gives to the stored bits; `nbytes` and `pieces` are of
    these bits. Raises InputError naming the file where it is truncated, damaged, or holds what cannot be decoded.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.headers = [read_header(path) for path in paths]
        self._places: dict[str, tuple[int, Entry]] = {}
        for part, header in enumerate(self.headers):
            for name, entry in header.tensors.items():
                if name in self._places:
                    raise InputError(f"{paths[part]}: tensor {name} is in another part of the model too", hint=AGAIN)
                self._places[name] = part, entry
        self._refuse_undecodable()

    @property
    def header(self) -> Header:
        """Of the first part, which has all settings."""
        return self.headers[0]

    @property
    def files(self) -> Mapping[Path, FileState]:
        return {path: header.state for path, header in zip(self._paths, self.headers, strict=True)}

    def types(self) -> Counter[str]:
        """How many tensors there are of each of the format's types."""
        return Counter(entry.type.name for _, entry in self._places.values())

    def names(self) -> Collection[str]:
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name][1].shape

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def stored_as(self, name: str) -> str:
        kind = self._places[name][1].type
        return _FLOATS.get(kind, kind.name)

    def nbytes(self, name: str) -> int:
        entry = self._places[name][1]
        return entry.end - entry.begin

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, in newly allocated memory."""
        shape = self.shape(name)
        return self._decoded(name, 0, math.prod(shape[:-1])).reshape(shape)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start:stop` of axis 0, in newly allocated memory."""
        shape = self.shape(name)
        if not 0 <= start <= stop <= shape[0]:
            raise IndexError(f"rows {start}:{stop} of {name}, which has {shape[0]}")
        if len(shape) == 1:
            return self.read(name)[start:stop].clone()
        height = math.prod(shape[1:-1])
        return self._decoded(name, start * height, stop * height).reshape(stop - start, *shape[1:])

    def pieces(self, name: str) -> Iterator[memoryview]:
        """The stored bytes of a tensor, a piece at a time and each in the memory of the one before."""
        part, entry = self._places[name]
        view = memoryview(bytearray(min(PIECE, entry.end - entry.begin)))
        for begin in range(entry.begin, entry.end, PIECE):
            piece = view[: min(PIECE, entry.end - begin)]
            self._fill(piece, part, begin)
            yield piece

    def _decoded(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows along the last axis, float32 [stop - start, width]."""
        part, entry = self._places[name]
        width = entry.shape[-1] if entry.shape else 1
        decoded = torch.empty((stop - start, width), dtype=torch.float32)
        height = max(1, _TILE // max(width, 1))
        for begin in range(start, stop, height):
            end = min(begin + height, stop)
            stored = np.empty((end - begin, entry.row), np.uint8)
            self._fill(stored.reshape(-1).data, part, entry.begin + begin * entry.row)
            decoded[begin - start : end - start] = torch.from_numpy(dequantize(stored, entry.type))
        return decoded

    def _fill(self, view: memoryview, part: int, begin: int) -> None:
        path = self._paths[part]
        try:
            with path.open("rb") as file:
                if state_of(os.fstat(file.fileno())) != self.headers[part].state:
                    raise changed(path)
                file.seek(begin)
                count = file.readinto(view)
        except OSError as error:
            raise MachineError(
                f"{path}: cannot be read ({error.strerror})", hint="check disk and permissions"
            ) from error
        if count < len(view):
            raise InputError(f"{path}: the file ends before byte {begin + len(view)}: it is truncated", hint=AGAIN)

    def _refuse_undecodable(self) -> None:
        undecodable = {kind for kind in {entry.type for _, entry in self._places.values()} if not _is_decodable(kind)}
        for name, (part, entry) in self._places.items():
            if entry.type in undecodable:
                raise InputError(
                    f"{self._paths[part]}: tensor {name} is stored as {entry.type.name}, which gguf cannot decode",
                    hint="pip install --upgrade gguf, or pass a file in another type",
                )


def _is_decodable(kind: GGMLQuantizationType) -> bool:
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
