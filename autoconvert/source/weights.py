"""The weights of a model, read one at a time by the names of its module."""

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch

from autoconvert.system.hashing import PIECE

FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Weights(Protocol):
    """Tensors by name, none of them in memory before it is asked for.

    Shapes, dtypes and sizes come from headers. A tensor that is missing or cannot be read raises
    InputError naming the file and the tensor.
    """

    def names(self) -> Collection[str]:
        """Every name that can be read."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def nbytes(self, name: str) -> int: ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor in the dtype of the file, in memory of its own or the live module's."""

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start:stop` of axis 0, without reading the others."""


class StoredWeights(Weights, Protocol):
    """Weights as a checkpoint stores them."""

    def pieces(self, name: str) -> Iterator[memoryview]:
        """The bytes of the tensor as they are stored, row-major; each piece is valid until the next."""


@runtime_checkable
class PackedWeights(StoredWeights, Protocol):
    """Weights whose `dtype` is that of what is read, while their bytes hold it in fewer bits."""

    def stored_as(self, name: str) -> str:
        """How the format calls the type of the stored bytes; as PyTorch does where it is a dtype."""


class TensorWeights:
    """Weights that are tensors in memory already: those of a live module, or of a loaded pickle."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def nbytes(self, name: str) -> int:
        return self._tensors[name].nbytes

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name].contiguous()

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._tensors[name][start:stop].contiguous()

    def pieces(self, name: str) -> Iterator[memoryview]:
        return pieces_of(self.read(name))


def pieces_of(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous tensor, row-major."""
    data = tensor.reshape(-1).view(torch.uint8).numpy().data
    for begin in range(0, len(data), PIECE):
        yield data[begin : begin + PIECE]
