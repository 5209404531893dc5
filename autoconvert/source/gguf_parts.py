"""Which files are a GGUF model: one, or all its parts NAME-00001-of-00003.gguf and so on."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from autoconvert.errors import InputError

if TYPE_CHECKING:
    from autoconvert.source.gguf_file import GgufCheckpoint

SUFFIX = ".gguf"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_OTHER_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*")


def parts_of(path: Path) -> tuple[str, tuple[Path, ...]]:
    """What a file is called without its ending and number, and all parts of the model that it belongs to, in order.

    Raises InputError where a part is missing.
    """
    named = _PART.fullmatch(path.name)
    if named is None:
        return path.name.removesuffix(SUFFIX), (path,)
    count = int(named[3])
    parts = tuple(path.with_name(f"{named[1]}-{number:05d}-of-{named[3]}{SUFFIX}") for number in range(1, count + 1))
    if missing := next((part for part in parts if not part.is_file()), None):
        raise InputError(f"{missing}: missing, one of {count} parts", hint="download all parts into one folder")
    return named[1], parts


def only_model_in(folder: Path) -> Path | None:
    """The file by which `folder` holds one GGUF model and no other weights; None where it holds none, or others.

    Raises InputError where it holds several.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files or any(next(folder.glob(pattern), None) for pattern in _OTHER_WEIGHTS):
        return None
    models = {_PART.sub(r"\1-of-\3", file.name): file for file in reversed(files)}
    if len(models) > 1:
        names = ", ".join(file.name for file in list(models.values())[::-1][:3])
        raise InputError(f"{folder}: {len(models)} GGUF models, {names}", hint="pass the path of one of the files")
    return next(iter(models.values()))


def refuse_without_all_parts(path: Path, checkpoint: "GgufCheckpoint") -> None:
    """Raise InputError where the file at `path` was one of more parts, or the parts lack tensors."""
    settings, held = checkpoint.header.settings, len(checkpoint.headers)
    count, tensors = settings.get("split.count", 0), settings.get("split.tensors.count")
    if isinstance(count, int) and count > 1 and count != held:
        raise InputError(
            f"{path}: one of {count} parts of a model, without the number in its name by which the others are found",
            hint=f"name the parts NAME-00001-of-{count:05d}{SUFFIX} and so on, as they were",
        )
    if isinstance(tensors, int) and tensors != len(checkpoint.names()):
        raise InputError(
            f"{path}: its parts hold {len(checkpoint.names())} tensors, and there were {tensors}",
            hint="download all parts again",
        )
