"""Models of the Hugging Face hub: only the files that a conversion reads are downloaded."""

import io
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.std import tqdm

from autoconvert.errors import InputError, MachineError
from autoconvert.source.checkpoint import PICKLE_HINT
from autoconvert.source.checkpoint_files import PICKLE, SAFETENSORS, shards_of
from autoconvert.source.header_weights import Header, HeaderWeights

Progress = Callable[[int, int], None]

_SNAPSHOTS, _COMMIT = "snapshots", re.compile("[0-9a-f]{40}")
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")


def download(
    model: str,
    *,
    revision: str | None,
    token: str | None,
    remote_code: bool,
    allow_pickle: bool,
    progress: Progress = lambda done, total: None,
) -> Path:
    """The folder with config, tokenizer and weights of the hub's `model`, downloaded where it is not yet.

    `progress` is called with the bytes written and the bytes expected so far.

    Raises InputError for an id, a revision or a weight format that is not there, MachineError for a hub that
    cannot be reached or does not let us in.
    """

    def fetch(patterns: Collection[str]) -> Path:
        return _snapshot(model, revision, token, patterns, progress)

    folder = fetch([*SMALL_FILES, *(["*.py"] if remote_code else [])])
    for single in (SAFETENSORS, PICKLE) if allow_pickle else (SAFETENSORS,):
        # As from_pretrained: one file before those that an index lists.
        folder = fetch([single])
        index = folder / f"{single}.index.json"
        if not (folder / single).is_file() and index.is_file():
            folder = fetch(sorted(set(shards_of(index).values())))
        if index.is_file() or (folder / single).is_file():
            return folder
    if not allow_pickle and _holds(model, revision, token, f"{PICKLE}*"):
        raise InputError(f"{model}: its weights are pickles, which can run code when read", hint=PICKLE_HINT)
    return folder


def commit_of(folder: Path) -> str | None:
    """The commit that `folder` holds, where it lies in a cache of the hub."""
    is_snapshot = folder.parent.name == _SNAPSHOTS and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else None


def fetch_headers(
    model: str, *, revision: str | None, token: str | None, remote_code: bool
) -> tuple[Path, HeaderWeights]:
    """The folder with config and tokenizer of the hub's `model`, and what its safetensors headers say.

    The headers are read in ranges; no weight is downloaded. Raises as `download`.
    """
    folder = _snapshot(model, revision, token, [*SMALL_FILES, *(["*.py"] if remote_code else [])], lambda *_: None)
    try:
        with _hub_errors(model, revision):
            files = HfApi().get_safetensors_metadata(model, revision=revision, token=token).files_metadata
    except NotASafetensorsRepoError as error:
        raise InputError(
            f"{model}: holds no safetensors, whose headers alone could be read", hint=PICKLE_HINT
        ) from error
    return folder, HeaderWeights(
        {
            name: Header(tuple(tensor.shape), tensor.dtype)
            for file in files.values()
            for name, tensor in file.tensors.items()
        },
        {key: str(text) for file in files.values() for key, text in (file.metadata or {}).items()},
    )


def _holds(model: str, revision: str | None, token: str | None, pattern: str) -> bool:
    """Whether the hub has files like `pattern`; False where it cannot be asked."""
    try:
        return bool(snapshot_download(model, revision=revision, token=token, allow_patterns=[pattern], dry_run=True))
    except DryRunError:
        return False


def _bars_to(progress: Progress) -> type[tqdm]:
    """The progress bars that the hub's library would print, told to `progress` instead."""

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            # On a terminal or not, bars count only while they think that somebody sees them.
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                progress(int(self.n), int(self.total))
            return shown

    return Bar


def _snapshot(
    model: str, revision: str | None, token: str | None, patterns: Collection[str], progress: Progress
) -> Path:
    with _hub_errors(model, revision):
        folder = snapshot_download(
            model,
            revision=revision,
            token=token,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"],
            tqdm_class=_bars_to(progress),
        )
    return Path(folder)


@contextmanager
def _hub_errors(model: str, revision: str | None) -> Iterator[None]:
    at = f"{model} at {revision}" if revision else model
    try:
        yield
    except HFValidationError as error:
        raise InputError(
            f"{model!r} is neither a folder nor a hub id",
            hint="pass a folder that exists, an id like meta-llama/Llama-3.2-1B, or demo",
        ) from error
    except GatedRepoError as error:
        raise MachineError(
            f"{at}: its authors ask you to accept their terms first",
            hint=f"accept them on https://huggingface.co/{model}, then run `hf auth login` or pass a token",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{at}: no such revision", hint="pass a branch, a tag or a full commit hash") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{model}: neither a folder here nor a model of the hub",
            hint="check the spelling; for a private model log in with `hf auth login` or pass a token",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise MachineError(
            f"{at}: the hub cannot be reached and the model is not in the cache",
            hint="check the network and HF_HUB_OFFLINE, or pass a folder that holds the model",
        ) from error
    except HTTPError as error:
        raise MachineError(
            f"{at}: the hub answered with an error, or not at all ({error})", hint="try again later"
        ) from error
    except OSError as error:
        raise MachineError(f"{at}: cannot be downloaded ({error})", hint="check disk and network") from error
