"""What a failed command says of the versions that are installed."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import typer

from autoconvert.cli import failures
from autoconvert.cli.failures import explained, newer_than_tested
from autoconvert.errors import BrokenPass, CheckFailed, InputError, MachineError, Refused

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def installed(**versions: str) -> Callable[[str], str]:
    """`importlib.metadata.version` where these packages are installed, and of the others those that are tested."""
    found = failures._TESTED | {name.replace("_", "-"): version for name, version in versions.items()}
    return lambda package: found.get(package, "0")


def fail_with(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(typer.Exit), explained(verbose=False):
        raise error
    return capsys.readouterr().err


def test_what_is_tested_is_what_the_constraints_say() -> None:
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    assert {package: pinned[package] for package in failures._TESTED} == failures._TESTED


@pytest.mark.parametrize("error", [ImportError("no _LazyGraphModule"), BrokenPass("b"), CheckFailed("c"), Refused("r")])
def test_a_failure_names_the_versions_that_are_too_new_to_be_tested(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "version", installed(torch="3.0.1+cu140", transformers="5.25.0.dev0"))
    told = fail_with(error, capsys)
    assert "newer: torch 3.0.1+cu140, transformers 5.25.0.dev0: newer than what is tested" in told
    assert told.endswith(
        f"pip install torch=={failures._TESTED['torch']} transformers=={failures._TESTED['transformers']}\n"
    )


@pytest.mark.parametrize("error", [InputError("i"), MachineError("m")])
def test_what_no_version_can_cause_is_not_blamed_on_one(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "version", installed(torch="3.0.1"))
    assert "newer" not in fail_with(error, capsys)


@pytest.mark.parametrize("version", ["2.13.0+cpu", "2.13.7", "2.9.1", "1.99"])
def test_mends_and_older_releases_are_not_newer(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "version", installed(torch=version))
    assert newer_than_tested() == {}


def test_a_package_that_is_missing_is_not_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(failures, "version", version)
    assert newer_than_tested() == {}
