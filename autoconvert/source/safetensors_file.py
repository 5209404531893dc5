"""One safetensors file, read tensor by tensor.

The format (https://huggingface.co/docs/safetensors): 8 bytes of little-endian header length, a JSON header
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}`, where `__metadata__` is no tensor but texts by name, and the
data, where the offsets count from.
Reads are plain reads, not a memory map: a mapped file counts as resident memory page by page.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from autoconvert.errors import InputError, MachineError
from autoconvert.source.file_state import FileState, changed, state_of
from autoconvert.system.hashing import PIECE

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
LARGEST_HEADER = 100_000_000
LARGEST_READ = 1 << 30  # one preadv returns at most 2 GiB - 4 KiB


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes `begin:end` of the file, row-major."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """The tensors of one file. Raises InputError naming the file where it is truncated or corrupt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state: FileState

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self._header[0]

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the header says beside its tensors."""
        return self._header[1]

    @cached_property
    def _header(self) -> tuple[Mapping[str, Entry], Mapping[str, str]]:
        try:
            with self.path.open("rb") as file:
                self._state = state_of(os.fstat(file.fileno()))
                size = self._state.size
                length = int.from_bytes(file.read(8), "little")
                header = file.read(length) if 8 + length <= size and length <= LARGEST_HEADER else None
        except OSError as error:
            raise self._unreadable(error) from error
        if header is None:
            raise self._corrupt("the header is longer than the file")
        try:
            fields = json.loads(header)
            metadata = {str(name): str(value) for name, value in (fields.pop("__metadata__", None) or {}).items()}
            entries = {name: _entry(field, 8 + length) for name, field in fields.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise self._corrupt(f"the header cannot be read ({type(error).__name__}: {error})") from error
        for name, entry in entries.items():
            if entry.end > size:
                raise self._corrupt(f"tensor {name} ends at byte {entry.end}, the file at byte {size}: it is truncated")
            if entry.dtype in DTYPES and entry.end - entry.begin != _nbytes(entry):
                raise self._corrupt(f"tensor {name} has {entry.end - entry.begin} bytes, not {_nbytes(entry)}")
        return entries, metadata

    def dtype(self, name: str) -> torch.dtype:
        if (dtype := DTYPES.get(self.entries[name].dtype)) is None:
            raise InputError(
                f"{self.path.name}: tensor {name} has dtype {self.entries[name].dtype}, not supported yet",
                hint="use a checkpoint in bfloat16, float16 or float32",
            )
        return dtype

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, in newly allocated memory."""
        entry = self.entries[name]
        return self._load(entry.begin, entry.end, self.dtype(name)).reshape(entry.shape)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start:stop` of axis 0, in newly allocated memory."""
        entry = self.entries[name]
        if not 0 <= start <= stop <= entry.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {name}, which has {entry.shape[0]}")
        row = (entry.end - entry.begin) // max(entry.shape[0], 1)
        data = self._load(entry.begin + start * row, entry.begin + stop * row, self.dtype(name))
        return data.reshape(stop - start, *entry.shape[1:])

    def pieces(self, name: str) -> Iterator[memoryview]:
        """The bytes of a tensor, of whatever dtype, a piece at a time and each in the memory of the one before."""
        entry = self.entries[name]
        view = memoryview(bytearray(min(PIECE, entry.end - entry.begin)))
        for begin in range(entry.begin, entry.end, PIECE):
            piece = view[: min(PIECE, entry.end - begin)]
            with self._opened() as descriptor:
                self._fill(piece, descriptor, begin)
            yield piece

    def _load(self, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        data = torch.empty((end - begin) // dtype.itemsize, dtype=dtype)
        with self._opened() as descriptor:
            self._fill(data.view(torch.uint8).numpy().data, descriptor, begin)
        return data

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the file, as long as it is the one whose header was read."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                if state_of(os.fstat(descriptor)) != self._state:
                    raise changed(self.path)
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unreadable(error) from error

    def _fill(self, view: memoryview, descriptor: int, begin: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done : done + LARGEST_READ]], begin + done)
            if count == 0:
                raise self._corrupt(f"the file ends before byte {begin + len(view)}: it is truncated")
            done += count

    def _unreadable(self, error: OSError) -> MachineError:
        return MachineError(f"{self.path}: cannot be read ({error.strerror})", hint="check disk and permissions")

    def _corrupt(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}", hint="download or save the checkpoint again")


def _entry(field: Mapping[str, object], base: int) -> Entry:
    shape, offsets = field["shape"], field["data_offsets"]
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        raise ValueError("shape or data_offsets is not a list")
    begin, end = (int(offset) for offset in offsets)
    if begin < 0 or end < begin or any(not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"shape {shape} or data_offsets {offsets}")
    return Entry(str(field["dtype"]), tuple(shape), base + begin, base + end)


def _nbytes(entry: Entry) -> int:
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
