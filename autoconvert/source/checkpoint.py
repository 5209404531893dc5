"""The checkpoint of a folder, by the names that its files use."""

import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch

from autoconvert.errors import InputError, MachineError
from autoconvert.source.checkpoint_files import CheckpointFiles, checkpoint_files
from autoconvert.source.safetensors_file import SafetensorsFile
from autoconvert.source.weights import StoredWeights, TensorWeights

PICKLE_HINT = "save it as safetensors, or pass --allow-pickle if you trust where it comes from"


class SafetensorsCheckpoint:
    """Tensors of one or several safetensors files; a header is parsed when first needed."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        self._files = files

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the headers say beside tensors."""
        return {key: text for file in set(self._files.values()) for key, text in file.metadata.items()}

    def names(self) -> Collection[str]:
        return self._files.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holder(name).entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._holder(name).dtype(name)

    def nbytes(self, name: str) -> int:
        entry = self._holder(name).entries[name]
        return entry.end - entry.begin

    def read(self, name: str) -> torch.Tensor:
        return self._holder(name).read(name)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._holder(name).read_rows(name, start, stop)

    def pieces(self, name: str) -> Iterator[memoryview]:
        return self._holder(name).pieces(name)

    def _holder(self, name: str) -> SafetensorsFile:
        file = self._files[name]
        if name not in file.entries:
            raise InputError(
                f"{file.path}: does not hold tensor {name}, which the index says is there",
                hint="download or save the checkpoint again",
            )
        return file


def open_checkpoint(folder: Path, allow_pickle: bool = False, found: CheckpointFiles | None = None) -> StoredWeights:
    """The checkpoint in `folder`, or in those of its files that were `found`.

    Raises InputError where there is none, a shard is missing, or only pickles are there and not allowed.
    """
    found = found or checkpoint_files(folder)
    if found.is_pickle and not allow_pickle:
        raise InputError(f"{folder}: its weights are pickles, which can run code when read", hint=PICKLE_HINT)
    if found.is_pickle:
        tensors: dict[str, torch.Tensor] = {}
        for pickled in found.files:
            tensors |= _load_pickle(folder / pickled)
        return TensorWeights(tensors)
    files = {name: SafetensorsFile(folder / name) for name in found.files}
    if found.shards is not None:
        return SafetensorsCheckpoint({name: files[file] for name, file in found.shards.items()})
    holders: dict[str, SafetensorsFile] = {}
    for file in files.values():
        for name in file.entries:
            if name in holders:
                raise InputError(
                    f"{file.path}: tensor {name} is in {holders[name].path.name} too, and no index says which is meant",
                    hint="download or save the checkpoint again",
                )
            holders[name] = file
    return SafetensorsCheckpoint(holders)


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Only the zip format can be mapped; older pickles are loaded whole.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise MachineError(f"{path}: cannot be read ({error.strerror})", hint="check disk and permissions") from error
    except Exception as error:
        # Whatever the bytes of a damaged pickle make of torch's reader.
        raise InputError(
            f"{path}: not a pickle of tensors ({(str(error).splitlines() or [type(error).__name__])[0]})",
            hint="save it as safetensors",
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"{path}: not a mapping from names to tensors", hint="save model.state_dict()")
    return {str(name): tensor for name, tensor in loaded.items()}
