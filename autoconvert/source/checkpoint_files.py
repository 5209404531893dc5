"""Which files of a folder hold its checkpoint: as `from_pretrained` decides, or the only ones that can."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoconvert.errors import InputError

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True)
class CheckpointFiles:
    """`files` by name; `shards` has the file of each tensor where an index says so. `notes` are for the summary."""

    files: tuple[str, ...]
    shards: Mapping[str, str] | None = None
    is_pickle: bool = False
    notes: tuple[str, ...] = ()


def checkpoint_files(folder: Path) -> CheckpointFiles:
    """The checkpoint of `folder`: one file before several that an index lists, safetensors before pickles.

    Raises:
        InputError: there is none, several may be meant, a shard is missing, or an index is damaged.
    """
    if (folder / SAFETENSORS).is_file():
        return CheckpointFiles((SAFETENSORS,), notes=_passed_over(folder))
    if shards := _indexed(folder, SAFETENSORS):
        return CheckpointFiles(tuple(sorted(set(shards.values()))), shards)
    if files := _numbered(folder):
        note = f"no index lists the {len(files)} shards; each was read whole"
        return CheckpointFiles(files, notes=(note,))
    if (folder / PICKLE).is_file():
        return CheckpointFiles((PICKLE,), is_pickle=True)
    if shards := _indexed(folder, PICKLE):
        return CheckpointFiles(tuple(sorted(set(shards.values()))), shards, is_pickle=True)
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    raise InputError(
        f"{folder}: no weights ({SAFETENSORS} or {SAFETENSORS}.index.json)",
        hint=f"of {', '.join(others[:3])}, rename the one that holds the model to {SAFETENSORS}"
        if others
        else "save the model with save_pretrained, or pass a folder that holds its weights",
    )


def shards_of(index: Path) -> dict[str, str]:
    """The file of each tensor. Raises InputError for what is no index, or leads out of its folder."""
    try:
        content = json.loads(index.read_bytes())["weight_map"]
        shards = {str(name): file for name, file in content.items()}
        if not shards or not all(isinstance(file, str) for file in shards.values()):
            raise ValueError("weight_map is no list of files by tensor")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index}: not a checkpoint index ({type(error).__name__}: {error})",
            hint="download or save the checkpoint again",
        ) from error
    for file in shards.values():
        if Path(file).name != file or "\0" in file:
            raise InputError(f"{index}: shard {file!r} lies outside of the folder", hint="repair the index")
    return shards


def _indexed(folder: Path, single: str) -> dict[str, str]:
    """File by tensor name, from the index beside `single`; empty if there is no index."""
    index = folder / f"{single}.index.json"
    if not index.is_file():
        return {}
    shards = shards_of(index)
    for name, file in shards.items():
        if not (folder / file).is_file():
            raise InputError(
                f"{folder / file}: missing; the index names it for tensor {name}",
                hint="download the checkpoint again, all of its shards",
            )
    return shards


def _numbered(folder: Path) -> tuple[str, ...]:
    """Shards without an index: one whole set, 1 to N of N; empty if there is none."""
    sets: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for file in folder.glob("*.safetensors"):
        if match := _SHARD.fullmatch(file.name):
            sets[match[1], int(match[3])][int(match[2])] = file.name
    if not sets:
        return ()
    hint = f"download the checkpoint again, all of its shards and {SAFETENSORS}.index.json"
    if len(sets) > 1:
        names = " and ".join(sorted(f"{stem}-…-of-{count}" for stem, count in sets))
        raise InputError(f"{folder}: shards of several checkpoints, {names}, and no index says which", hint=hint)
    ((stem, count), files) = next(iter(sets.items()))
    if missing := [number for number in range(1, min(count, 10_000) + 1) if number not in files]:
        raise InputError(f"{folder}: of the {count} shards {stem}-…, number {missing[0]} is missing", hint=hint)
    return tuple(files[number] for number in range(1, count + 1))


def _passed_over(folder: Path) -> tuple[str, ...]:
    index = folder / f"{SAFETENSORS}.index.json"
    if not index.is_file():
        return ()
    try:
        if set(shards_of(index).values()) == {SAFETENSORS}:
            return ()
    except InputError:
        pass
    return (f"{SAFETENSORS} was read, as from_pretrained does; {index.name} beside it lists other files",)
