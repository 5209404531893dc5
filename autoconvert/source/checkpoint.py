"""The checkpoint of a folder, by the names that its files use."""

import json
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from autoconvert.errors import InputError
from autoconvert.source.safetensors_file import SafetensorsFile
from autoconvert.source.weights import TensorWeights, Weights

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
PICKLE_HINT = "save it as safetensors, or pass --allow-pickle if you trust where it comes from"


class SafetensorsCheckpoint:
    """Tensors of one or several safetensors files; a header is parsed when first needed."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        self._files = files

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

    def _holder(self, name: str) -> SafetensorsFile:
        file = self._files[name]
        if name not in file.entries:
            raise InputError(
                f"{file.path}: does not hold tensor {name}, which the index says is there",
                hint="download or save the checkpoint again",
            )
        return file


def open_checkpoint(folder: Path, allow_pickle: bool = False) -> Weights:
    """The checkpoint in `folder`: safetensors if there are any, else pickles if they are allowed.

    Raises InputError where there is none, a shard is missing, or only pickles are there and not allowed.
    """
    if shards := _shards(folder, SAFETENSORS):
        files = {file: SafetensorsFile(folder / file) for file in sorted(set(shards.values()))}
        return SafetensorsCheckpoint({name: files[file] for name, file in shards.items()})
    if (folder / SAFETENSORS).is_file():
        file = SafetensorsFile(folder / SAFETENSORS)
        return SafetensorsCheckpoint(dict.fromkeys(file.entries, file))
    pickles = set(_shards(folder, PICKLE).values()) or {PICKLE} & {path.name for path in folder.iterdir()}
    if not pickles:
        raise InputError(
            f"{folder}: no weights ({SAFETENSORS} or {SAFETENSORS}.index.json)",
            hint="save the model with save_pretrained, or pass a folder that holds its weights",
        )
    if not allow_pickle:
        raise InputError(f"{folder}: its weights are pickles, which can run code when read", hint=PICKLE_HINT)
    tensors: dict[str, torch.Tensor] = {}
    for pickled in sorted(pickles):
        tensors |= _load_pickle(folder / pickled)
    return TensorWeights(tensors)


def _shards(folder: Path, single: str) -> dict[str, str]:
    """File by tensor name, from the index beside `single`; empty if there is no index."""
    index = folder / f"{single}.index.json"
    if not index.is_file():
        return {}
    try:
        shards = {str(name): str(file) for name, file in json.loads(index.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{index}: not a checkpoint index ({type(error).__name__}: {error})",
            hint="download or save the checkpoint again",
        ) from error
    for name, file in shards.items():
        if Path(file).name != file:
            raise InputError(f"{index}: shard {file!r} lies outside of the folder", hint="repair the index")
        if not (folder / file).is_file():
            raise InputError(
                f"{folder / file}: missing; the index names it for tensor {name}",
                hint="download the checkpoint again, all of its shards",
            )
    return shards


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Only the zip format can be mapped; older pickles are loaded whole.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"{path}: not a pickle of tensors ({str(error).splitlines()[0]})", hint="save it as safetensors"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"{path}: not a mapping from names to tensors", hint="save model.state_dict()")
    return {str(name): tensor for name, tensor in loaded.items()}
