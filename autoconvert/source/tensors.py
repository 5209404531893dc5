"""The tensors of a checkpoint as it stores them, byte by byte: what a receipt says of each."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from autoconvert.source.accounting import module_weights
from autoconvert.source.source import Source
from autoconvert.source.weights import PackedWeights, StoredWeights


@dataclass(frozen=True)
class StoredTensor:
    """Its dtype as PyTorch names it, or the type of packed numbers as their format does, its shape, and the SHA-256 of
    its bytes, row-major and little-endian, in hex.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def checkpoint_of(source: Source) -> StoredWeights:
    """The tensors of `source` by the names that the checkpoint uses."""
    return module_weights(source).checkpoint


def contents(source: Source) -> dict[str, Iterator[memoryview]]:
    """The bytes of each tensor that has a place in the module, in the order of the checkpoint; read when asked for."""
    weights = module_weights(source)
    placed = {tensor for name in weights.names() for tensor in weights.sources(name)}
    return {name: weights.checkpoint.pieces(name) for name in source.checkpoint if name in placed}


def stored_tensors(
    checkpoint: StoredWeights, names: Collection[str], digests: Mapping[str, str]
) -> dict[str, StoredTensor]:
    """What there is to say of `names`, whose digests are among `digests`."""
    return {
        name: StoredTensor(dtype_name(checkpoint, name), tuple(checkpoint.shape(name)), digests[name]) for name in names
    }


def dtype_name(checkpoint: StoredWeights, name: str) -> str:
    if isinstance(checkpoint, PackedWeights):
        return checkpoint.stored_as(name)
    return str(checkpoint.dtype(name)).removeprefix("torch.")
