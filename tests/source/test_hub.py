"""What is downloaded from the hub, and what is said when that fails."""

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from httpx2 import ConnectError, Request, Response
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.std import tqdm

from autoconvert.errors import AutoconvertError, InputError, MachineError
from autoconvert.source import hub
from autoconvert.source.safetensors_file import SafetensorsFile
from autoconvert.source.source import Origin, load_source, plan_source

from .tiny import build, llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "remote"
    build(llama()).save_pretrained(folder)
    (folder / "original").mkdir()
    for name in ["pytorch_model.bin", "consolidated.safetensors", "original/model.safetensors", "a.py"]:
        (folder / name).write_bytes(b"large")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("")
    return folder


@pytest.fixture
def downloads(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that holds `model`: what a download copies, it copies here."""
    local = tmp_path / "local"
    local.mkdir()

    def snapshot_download(
        repo: str,
        *,
        allow_patterns: list[str],
        ignore_patterns: list[str] | None = None,
        dry_run: bool = False,
        **_: object,
    ) -> object:
        files = [str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()]
        chosen = [name for name in files if any(fnmatch(name, pattern) for pattern in allow_patterns)]
        chosen = [name for name in chosen if not any(fnmatch(name, p) for p in ignore_patterns or ())]
        if dry_run:
            return chosen
        for name in chosen:
            shutil.copy(model / name, local / name)
        return str(local)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return local


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_what_a_conversion_reads_is_downloaded(downloads: Path) -> None:
    source = load_source("someone/tiny-model")
    assert source.name == "tiny-model" and source.folder == downloads
    assert source.origin == Origin("hub", "someone/tiny-model")
    expected = {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"}
    assert names(downloads) == expected | {"model.safetensors"}


def test_the_commit_is_told_where_the_hub_s_cache_says_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    snapshot = shutil.copytree(model, tmp_path / "models--someone--tiny-model" / "snapshots" / commit)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(snapshot))
    assert load_source("someone/tiny-model").origin == Origin("hub", "someone/tiny-model", commit)
    assert load_source(snapshot).origin.revision == commit
    assert hub.commit_of(model) is None and hub.commit_of(snapshot.parent / "main") is None


def test_of_shards_the_index_says_which(model: Path, downloads: Path) -> None:
    (model / "model.safetensors").unlink()
    build(llama()).save_pretrained(model, max_shard_size="20KB")
    load_source("someone/tiny-model")
    shards = {path.name for path in model.glob("model-*.safetensors")}
    assert len(shards) > 2
    assert names(downloads) & {path.name for path in model.rglob("*.safetensors")} == shards


def test_code_is_downloaded_only_when_trusted(downloads: Path) -> None:
    load_source("someone/tiny-model")
    assert "a.py" not in names(downloads)
    load_source("someone/tiny-model", trust_remote_code=True)
    assert "a.py" in names(downloads)


def test_a_plan_downloads_headers_and_no_weights(model: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_source(model)

    class Hub:
        def get_safetensors_metadata(self, _: str, **__: object) -> object:
            file = SimpleNamespace(tensors=SafetensorsFile(model / "model.safetensors").entries, metadata={})
            return SimpleNamespace(files_metadata={"model.safetensors": file})

    monkeypatch.setattr(hub, "HfApi", Hub)
    source = plan_source("someone/tiny-model")
    assert "model.safetensors" not in names(downloads)
    assert source.checkpoint == whole.checkpoint
    with pytest.raises(InputError, match="was not downloaded"):
        source.weights.read("model.norm.weight")


def test_a_plan_of_a_hub_model_without_safetensors_says_so(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def get_safetensors_metadata(self, _: str, **__: object) -> None:
            raise NotASafetensorsRepoError("none")

    monkeypatch.setattr(hub, "HfApi", Hub)
    with pytest.raises(InputError, match="holds no safetensors"):
        plan_source("someone/tiny-model")


def test_pickles_are_not_downloaded_to_be_refused(model: Path, downloads: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match="its weights are pickles") as caught:
        load_source("someone/tiny-model")
    assert "--allow-pickle" in caught.value.hint
    assert "pytorch_model.bin" not in names(downloads)
    with pytest.raises(InputError, match=r"pytorch_model\.bin: not a pickle of tensors"):
        load_source("someone/tiny-model", allow_pickle=True)


def test_a_model_without_weights_says_so(model: Path, downloads: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="no weights"):
        load_source("someone/tiny-model")


def answer(status: int) -> Response:
    return Response(status, request=Request("GET", "https://huggingface.co/api/models/someone/tiny-model"))


FAILURES: dict[str, tuple[Callable[[], Exception], type[AutoconvertError], str]] = {
    "unknown id": (
        lambda: RepositoryNotFoundError("404", response=answer(404)),
        InputError,
        "neither a folder here nor a model of the hub",
    ),
    "unknown revision": (
        lambda: RevisionNotFoundError("404", response=answer(404)),
        InputError,
        "someone/tiny-model at v9: no such revision",
    ),
    "gated": (lambda: GatedRepoError("403", response=answer(403)), MachineError, "accept their terms"),
    "hub down": (
        lambda: HfHubHTTPError("500 Server Error", response=answer(500)),
        MachineError,
        "500 Server Error",
    ),
    "connection lost": (lambda: ConnectError("no route"), MachineError, "no route"),
    "not cached": (lambda: LocalEntryNotFoundError("no"), MachineError, "cannot be reached"),
    "offline": (lambda: OfflineModeIsEnabled("no"), MachineError, "cannot be reached"),
    "disk full": (lambda: OSError(28, "No space left on device"), MachineError, "No space left"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_download_says_what_to_do(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, kind, message = FAILURES[case]

    def fail(*_: object, **__: object) -> str:
        raise make()

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(kind, match=message) as caught:
        load_source("someone/tiny-model", revision="v9")
    assert caught.value.hint
    assert type(caught.value) is kind


@pytest.mark.parametrize("model", ["some/where/else", "a model", "--help", ""])
def test_what_cannot_be_an_id_is_an_input_error(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"neither a folder nor a hub id|no model is named"):
        load_source(model)


def test_offline_without_a_cache_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MachineError, match="not in the cache") as caught:
        load_source("someone/tiny-model")
    assert "HF_HUB_OFFLINE" in caught.value.hint


def test_offline_with_a_cache_loads(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "cache" / "models--someone--tiny-model"
    shutil.copytree(model, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    source = load_source("someone/tiny-model")
    assert source.name == "tiny-model"
    assert source.weights.read("lm_head.weight").shape == (97, 32)


def test_a_download_reports_bytes_and_prints_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def snapshot_download(*_: object, tqdm_class: type[tqdm], **__: object) -> str:
        with tqdm_class(total=10, unit="B") as bytes_on_disk:
            bytes_on_disk.update(4)
            bytes_on_disk.update(6)
        with tqdm_class(total=3, desc="Fetching 3 files") as files:
            files.update(3)
        return str(model)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    seen: list[tuple[int, int]] = []
    hub.download(
        "someone/model",
        revision=None,
        token=None,
        remote_code=False,
        allow_pickle=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (10, 10) in seen
    assert {total for _, total in seen} == {10}
    assert capfd.readouterr().err == ""
