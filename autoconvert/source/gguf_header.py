"""What a GGUF file says before its numbers begin: settings, and where each tensor lies.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all little-endian: the magic "GGUF", a version,
the counts of tensors and of settings; each setting a name, a type and a value; each tensor a name, its sizes with that
of the last axis first, a type and an offset into the data, which begin at the next multiple of `general.alignment`.

`gguf.GGUFReader` keeps several arrays of numpy for each token and each merge of a vocabulary, which takes seconds and
hundreds of megabytes; here they are passed over. Numbers are read by `gguf_file.py`.
"""

import math
import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from autoconvert.errors import InputError, MachineError
from autoconvert.source.file_state import FileState, state_of

AGAIN = "download the file again, or write it again"
ARCHITECTURE, TOKENS = "general.architecture", "tokenizer.ggml.tokens"

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# A longer list is one of a vocabulary; what a list says of a model is as long as its layers.
_LONGEST_LIST = 4096
_LARGEST_RANK = 4
_LARGEST_ALIGNMENT = 1 << 20
_SMALL = 1 << 16


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes `begin:end` of the file, row-major, of which `row` are a row along the last axis."""

    type: GGMLQuantizationType
    shape: tuple[int, ...]
    begin: int
    end: int
    row: int


@dataclass(frozen=True)
class Header:
    """`settings` are numbers, texts and short lists of numbers; of any other list its length. `stored` are the settings
    as they lie in the file, but for long lists.
    """

    state: FileState
    settings: Mapping[str, object]
    stored: Mapping[str, bytes]
    tensors: Mapping[str, Entry]

    @property
    def architecture(self) -> str:
        return str(self.settings.get(ARCHITECTURE, ""))


class _Truncated(Exception):
    """The file ends before what it announces."""


@dataclass
class _Cursor:
    file: BinaryIO
    size: int

    def take(self, count: int) -> bytes:
        # Room for what a damaged length promises is never asked for.
        if count > _SMALL and count > self.size - self.file.tell():
            raise _Truncated
        content = self.file.read(count)
        if len(content) < count:
            raise _Truncated
        return content

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def text(self) -> bytes:
        return self.take(int.from_bytes(self.take(8), "little"))


def read_header(path: Path) -> Header:
    """The header of the file at `path`.

    Raises:
        InputError: it is no GGUF file, it is truncated or damaged, or a tensor is of an unknown type.
        MachineError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            state = state_of(os.fstat(file.fileno()))
            return _read(path, _Cursor(file, state.size), state)
    except OSError as error:
        raise MachineError(f"{path}: cannot be read ({error.strerror})", hint="check disk and permissions") from error
    except _Truncated as error:
        raise InputError(f"{path}: it ends within its header: it is truncated", hint=AGAIN) from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not a whole GGUF file ({error})", hint=AGAIN) from error


def _read(path: Path, cursor: _Cursor, state: FileState) -> Header:
    magic = cursor.file.read(4)
    if magic != b"GGUF":
        raise InputError(f"{path}: not a GGUF file: it begins with {magic!r}", hint="pass a .gguf file or a folder")
    version, count, settings_count = cursor.numbers("IQQ")
    if version not in _VERSIONS:
        what = "for machines of the other byte order" if version & 0xFFFF == 0 else f"of version {version}"
        raise InputError(f"{path}: a GGUF file {what}, not supported", hint="write it again with today's llama.cpp")
    settings: dict[str, object] = {}
    stored: dict[str, bytes] = {}
    for _ in range(settings_count):
        begin = cursor.file.tell()
        name = cursor.text().decode()
        (kind,) = cursor.numbers("I")
        settings[name], is_short = _value(cursor, kind)
        if is_short:
            end = cursor.file.tell()
            cursor.file.seek(begin)
            stored[name] = cursor.take(end - begin)
    infos = [_info(cursor) for _ in range(count)]
    alignment = settings.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= _LARGEST_ALIGNMENT:
        raise ValueError(f"general.alignment is {alignment}")
    data = -(-cursor.file.tell() // alignment) * alignment
    tensors: dict[str, Entry] = {}
    for name, shape, kind, offset in infos:
        if name in tensors:
            raise ValueError(f"tensor {name} is there twice")
        tensors[name] = _entry(path, name, shape, kind, data + offset)
        if (end := tensors[name].end) > state.size:
            raise InputError(
                f"{path}: tensor {name} ends at byte {end}, the file at byte {state.size}: it is truncated", hint=AGAIN
            )
    return Header(state, settings, stored, tensors)


def _value(cursor: _Cursor, kind: int) -> tuple[object, bool]:
    """A value, and whether it is short."""
    if kind in _SCALARS:
        return cursor.numbers(_SCALARS[kind])[0], True
    if kind == _STRING:
        return cursor.text().decode(errors="replace"), True
    if kind != _ARRAY:
        raise ValueError(f"a setting of type {kind}")
    of, count = cursor.numbers("IQ")
    if of in _SCALARS:
        content = cursor.take(count * struct.calcsize("<" + _SCALARS[of]))
        is_short = count <= _LONGEST_LIST
        return (list(struct.unpack(f"<{count}{_SCALARS[of]}", content)) if is_short else count), is_short
    if of == _STRING:
        for _ in range(count):
            cursor.text()
        return count, count <= _LONGEST_LIST
    raise ValueError(f"a list of type {of}")


def _info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text().decode()
    (rank,) = cursor.numbers("I")
    if rank > _LARGEST_RANK:
        raise ValueError(f"tensor {name} has {rank} axes")
    shape = cursor.numbers(f"{rank}Q")[::-1]
    kind, offset = cursor.numbers("IQ")
    return name, shape, kind, offset


def _entry(path: Path, name: str, shape: tuple[int, ...], kind: int, begin: int) -> Entry:
    try:
        stored_as = GGMLQuantizationType(kind)
    except ValueError as error:
        raise InputError(
            f"{path}: tensor {name} is of type {kind}, which the installed gguf does not know",
            hint="pip install --upgrade gguf",
        ) from error
    numbers, size = GGML_QUANT_SIZES[stored_as]
    width = shape[-1] if shape else 1
    if width % numbers:
        raise ValueError(f"tensor {name} has rows of {width}, which {stored_as.name} cannot hold")
    row = width // numbers * size
    return Entry(stored_as, shape, begin, begin + math.prod(shape[:-1]) * row, row)


def stand_in(header: Header, tensors: Collection[str]) -> bytes:
    """A file with the settings of `header` but for its vocabulary, of which one token stays, and with `tensors` of one
    number each: what says the same of the model and is read at once.
    """
    settings = [content for name, content in header.stored.items() if name != TOKENS]
    if TOKENS in header.settings:
        settings.append(_text(TOKENS) + struct.pack("<IIQ", _ARRAY, _STRING, 1) + _text(""))
    infos = [_text(name) + struct.pack("<IQIQ", 1, 1, 0, 4 * index) for index, name in enumerate(tensors)]
    begin = b"GGUF" + struct.pack("<IQQ", _VERSIONS[-1], len(tensors), len(settings))
    # Whatever the alignment is, the numbers are zeros up to the end.
    room = bytes(4 * len(tensors) + _LARGEST_ALIGNMENT)
    return b"".join([begin, *settings, *infos, room])


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
