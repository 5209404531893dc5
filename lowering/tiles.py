"""The stored rows of constants, in the order of the file, read and encoded ahead on two threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Protocol

import torch

from autoconvert.errors import AutoconvertError, InputError
from autoconvert.lowering.constants import Constant
from autoconvert.quantization.encode import UnrepresentableRow, encode
from autoconvert.quantization.encoding import Encoded

_THREADS = 2
_TILES_AHEAD = 4
# Memory of a tile of float32 numbers is used again by the allocator; larger ones would come anew from the system.
_TILE_ELEMENTS = 1 << 20
_LARGE_ELEMENTS = 1 << 24


class TensorStore(Protocol):
    """A checkpoint: tensors by name, in the dtype of the file, whole or some rows of them."""

    def read(self, name: str) -> torch.Tensor: ...

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor: ...

    def shape(self, name: str) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Tile:
    """Rows `first_row` and following of a constant, as they are stored."""

    constant: Constant
    first_row: int
    encoded: Encoded


def check_shapes(constants: Sequence[Constant], store: TensorStore) -> None:
    """Raise InputError where the checkpoint has a tensor in another shape than the weight made of it."""
    for constant in constants:
        weight = constant.weight
        if weight.program is not None:
            continue
        found, expected = tuple(store.shape(weight.sources[0])), tuple(weight.shape)
        if found != expected:
            raise InputError(
                f"{weight.sources[0]} has shape {found} in the checkpoint, but {expected} in the model",
                hint="Check that the checkpoint belongs to the model's configuration.",
            )


def encoded_tiles(constants: Sequence[Constant], store: TensorStore) -> Generator[Tile, None, None]:
    """Every row of every constant, in order; a weight with a program is one tile, and so is one that is not by rows.

    Raises InputError naming the tensor when it holds numbers that the encoding cannot.
    """
    jobs = _jobs(constants, store)
    ahead: deque[Future[Tile]] = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="encode")
    try:
        for job in jobs:
            ahead.append(pool.submit(job))
            if len(ahead) > _TILES_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _jobs(constants: Sequence[Constant], store: TensorStore) -> Iterator[Callable[[], Tile]]:
    one_large_at_a_time = Lock()
    for constant in constants:
        weight = constant.weight
        if weight.program is not None or not weight.shape or not constant.encoding.by_rows:
            yield partial(_evaluated, constant, store, one_large_at_a_time)
            continue
        rows = weight.shape[0]
        columns = torch.Size(weight.shape[1:]).numel()
        step = max(1, _TILE_ELEMENTS // max(1, columns))
        for start in range(0, rows, step):
            yield partial(_read, constant, store, start, min(rows, start + step))


def _read(constant: Constant, store: TensorStore, start: int, stop: int) -> Tile:
    value = store.read_rows(constant.weight.sources[0], start, stop)
    return _encoded(constant, start, value)


def _evaluated(constant: Constant, store: TensorStore, one_large_at_a_time: Lock) -> Tile:
    weight = constant.weight
    if torch.Size(weight.shape).numel() < _LARGE_ELEMENTS:
        return _encoded(constant, 0, _evaluate(constant, store))
    with one_large_at_a_time:
        return _encoded(constant, 0, _evaluate(constant, store))


def _evaluate(constant: Constant, store: TensorStore) -> torch.Tensor:
    weight = constant.weight
    with torch.no_grad():
        value = weight.evaluate(store.read)
    found, expected = tuple(value.shape), tuple(weight.shape)
    if found != expected:
        raise AutoconvertError(f"the program of weight {weight.name!r} gives shape {found}, not {expected}")
    return value


def _encoded(constant: Constant, first_row: int, value: torch.Tensor) -> Tile:
    try:
        return Tile(constant, first_row, encode(value, constant.encoding))
    except UnrepresentableRow as error:
        names = " and ".join(constant.weight.sources)
        raise InputError(f"row {first_row + error.row} of {names} {error.reason}", hint=error.hint) from error
