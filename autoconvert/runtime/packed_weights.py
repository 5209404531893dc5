"""Weights as the runtime's kernels want them: packed into a file that is mapped, once for all who run a model.

CompiledModel is told where that file lies, and LiteRT-LM looks for it in its cache folder. Both pack the same bytes,
and use what they find only where it was packed for kernels like theirs. The name in the cache folder is LiteRT-LM's
own (`GetWeightCacheFile`, 0.18.1): under any other it packs the weights again.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoconvert.errors import MachineError

_PACKED = "packed"


@contextmanager
def packed_weights(kept: Path | None = None) -> Iterator[Path]:
    """The folder `kept` for the packed weights of one model, as large as its file, or a temporary one for so long.

    Raises MachineError where there is none.
    """
    if kept is not None:
        yield kept
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="autoconvert-", ignore_cleanup_errors=True)
    except OSError as error:
        raise MachineError(
            f"no temporary folder for the weights that the runtime packs: {error.strerror}",
            hint="Set TMPDIR to a folder with as much room as the model's file.",
        ) from error
    with folder as name:
        yield Path(name)


def packed_file(folder: Path) -> Path:
    """Where weights of a `.tflite` are packed to, or lie packed."""
    return folder / _PACKED


def hand_over(folder: Path, bundle: Path) -> None:
    """Gives what was packed of a `.tflite` to the engine that opens the `bundle` made of it and has `folder` as cache.

    Nobody else may have the file mapped: an engine that packs anew writes into it.
    """
    packed = packed_file(folder)
    if packed.exists():
        state = bundle.stat()
        packed.rename(folder / f"{bundle.name}_{int(state.st_mtime)}_{state.st_size}.xnnpack_cache")
