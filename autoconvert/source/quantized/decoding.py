"""Stored tensors decoded into the weights that they stand for, as these are read."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch

from autoconvert.errors import InputError
from autoconvert.source.weights import StoredWeights

# Numbers decoded at a time: what is computed on the way stays small beside the largest tensor.
_CHUNK = 1 << 22


class Parts:
    """The stored tensors of one weight, by what they are to its format.

    One that is read whole is kept: where a weight's rows lie across all of a tensor, tiles read it once.
    """

    def __init__(self, stored: StoredWeights, names: Mapping[str, str]) -> None:
        self._stored, self._names = stored, names
        self._whole: dict[str, torch.Tensor] = {}

    def __contains__(self, part: str) -> bool:
        return part in self._names

    def name(self, part: str) -> str:
        return self._names[part]

    def shape(self, part: str) -> tuple[int, ...]:
        return self._stored.shape(self._names[part])

    def dtype(self, part: str) -> torch.dtype:
        return self._stored.dtype(self._names[part])

    def whole(self, part: str) -> torch.Tensor:
        if part not in self._whole:
            self._whole[part] = self._stored.read(self._names[part])
        return self._whole[part]

    def rows(self, part: str, start: int, stop: int) -> torch.Tensor:
        return self._stored.read_rows(self._names[part], start, stop)


Rows = Callable[[Parts, int, int], torch.Tensor]


@dataclass(frozen=True)
class Decoding:
    """How one weight is decoded.

    `parts` names the stored tensors that it is made of. `rows(parts, start, stop)` gives these rows of axis 0, of a
    weight of `shape`, in float32. `kind` names the format for the summary. `rounds_activations` says that the format's
    own kernels also round what they multiply the weight with.
    """

    parts: Mapping[str, str]
    shape: tuple[int, ...]
    rows: Rows
    kind: str
    rounds_activations: bool = False


class DecodedWeights:
    """As `Weights`: those that `decodings` make, by their names, and the stored tensors that are part of none.

    Only the parts of the weight that was read last are in memory, and of them only those that are read whole.
    """

    def __init__(self, stored: StoredWeights, decodings: Mapping[str, Decoding]) -> None:
        self.stored = stored
        self._decodings = decodings
        taken = {name for decoding in decodings.values() for name in decoding.parts.values()}
        self._names = dict.fromkeys([*(name for name in stored.names() if name not in taken), *decodings])
        self._latest: tuple[str, Parts] = ("", Parts(stored, {}))

    def names(self) -> Collection[str]:
        return self._names.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._decodings[name].shape if name in self._decodings else self.stored.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32 if name in self._decodings else self.stored.dtype(name)

    def nbytes(self, name: str) -> int:
        return 4 * math.prod(self.shape(name)) if name in self._decodings else self.stored.nbytes(name)

    def read(self, name: str) -> torch.Tensor:
        if name not in self._decodings:
            return self.stored.read(name)
        return self.read_rows(name, 0, self.shape(name)[0])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if name not in self._decodings:
            return self.stored.read_rows(name, start, stop)
        decoding = self._decodings[name]
        if not 0 <= start <= stop <= decoding.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {name}, which has {decoding.shape[0]}")
        parts = self._parts(name)
        result = torch.empty((stop - start, *decoding.shape[1:]))
        height = max(1, _CHUNK // max(1, math.prod(decoding.shape[1:])))
        for begin in range(start, stop, height):
            end = min(begin + height, stop)
            result[begin - start : end - start] = decoding.rows(parts, begin, end)
        return result

    def sources(self, name: str) -> tuple[str, ...]:
        """The stored tensors that `name` is made of."""
        return tuple(self._decodings[name].parts.values()) if name in self._decodings else (name,)

    def renamed(self, stored: StoredWeights, rename: Callable[[str], str]) -> "DecodedWeights":
        """The same over `stored`, whose names are those that `rename` makes of these."""
        return DecodedWeights(
            stored,
            {
                rename(name): replace(decoding, parts={part: rename(of) for part, of in decoding.parts.items()})
                for name, decoding in self._decodings.items()
            },
        )

    def _parts(self, name: str) -> Parts:
        latest, parts = self._latest
        if latest != name:
            parts = Parts(self.stored, self._decodings[name].parts)
            self._latest = (name, parts)
        return parts


# Tensors by the names of the files, as they are or decoded.
Checkpoint = StoredWeights | DecodedWeights


def stored_of(weights: Checkpoint) -> StoredWeights:
    """The tensors as the files hold them."""
    return weights.stored if isinstance(weights, DecodedWeights) else weights


def sources_of(weights: Checkpoint, name: str) -> tuple[str, ...]:
    """The stored tensors that `name` is made of."""
    return weights.sources(name) if isinstance(weights, DecodedWeights) else (name,)


def companion(stored: StoredWeights, weight: str, name: str) -> str:
    """`name`, which `weight` cannot be decoded without. Raises InputError where it is not stored."""
    if name not in stored.names():
        raise InputError(
            f"{name}: the checkpoint has no tensor for it, and {weight} cannot be decoded without it",
            hint="download the checkpoint again, all of its shards",
        )
    return name


def require_shape(stored: StoredWeights, name: str, *shapes: tuple[int, ...]) -> None:
    """Raise InputError unless the stored tensor has one of `shapes`."""
    if (shape := tuple(stored.shape(name))) not in shapes:
        expected = " or ".join(str(list(each)) for each in shapes)
        raise wrong_shape(name, shape, expected)


def wrong_shape(name: str, shape: tuple[int, ...], expected: str) -> InputError:
    return InputError(
        f"{name}: shape {list(shape)}, where {expected} was expected",
        hint="check that the checkpoint is complete and that config.json belongs to it",
    )


def require_dtype(stored: StoredWeights, name: str, *dtypes: torch.dtype) -> None:
    """Raise InputError unless the stored tensor has one of `dtypes`."""
    if (dtype := stored.dtype(name)) not in dtypes:
        expected = " or ".join(str(each).removeprefix("torch.") for each in dtypes)
        raise InputError(
            f"{name}: dtype {str(dtype).removeprefix('torch.')}, where {expected} was expected",
            hint="check that config.json belongs to this checkpoint",
        )
