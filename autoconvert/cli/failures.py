"""How a command ends when it fails: a message, what to do about it, and an exit code."""

import errno
import platform
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.console import Console
from rich.text import Text

from autoconvert.cli.output import is_unread, write_to_nobody
from autoconvert.errors import AutoconvertError, BrokenPass, InputError, MachineError, Refused

INTERRUPTED = 130
BUG = 1
# As of a process that ends by SIGPIPE.
UNREAD = 141

_PACKAGES = ("autoconvert", "torch", "transformers", "litert-torch", "ai-edge-litert", "litert-lm-api")
# The newest releases that the tests pass with: those of constraints.txt.
_TESTED = {
    "torch": "2.13.0",
    "transformers": "5.24.0",
    "litert-torch": "0.10.0",
    "litert-converter": "0.5.0",
    "ai-edge-litert": "2.3.0",
    "ai-edge-quantizer": "0.10.0",
    "litert-lm-api": "0.18.1",
    "litert-lm-builder": "0.18.1",
}
_MACHINE = {
    errno.ENOSPC: "Free some space on that disk, or choose another folder.",
    errno.EDQUOT: "Free some of your disk quota, or choose another folder.",
    errno.EACCES: "Choose a place that you may read and write.",
    errno.EPERM: "Choose a place that you may read and write.",
    errno.EROFS: "Choose a disk that can be written to.",
    errno.EIO: "The disk may be damaged; try another one.",
    errno.EFBIG: "Raise the limit of a file's size (`ulimit -f`), or choose a disk that holds larger files.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
    errno.ENOMEM: "Close other programs, or use a machine with more memory.",
}


@contextmanager
def explained(*, verbose: bool, model: str = "") -> Iterator[None]:
    """Turns whatever goes wrong inside into a message on stderr and the end of the command.

    With `verbose` the traceback comes first, also where the failure is not a bug. Where a block of `model`, as it was
    asked for, is not covered, the last line names the command that says more.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        _say("interrupted", "everything unfinished was removed", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_unread():
            write_to_nobody()
            raise typer.Exit(UNREAD) from None
        failure = error if isinstance(error, AutoconvertError) else _machine_error(error)
        if failure is None or verbose:
            traceback.print_exception(error)
        if failure is None:
            _say("error", f"{type(error).__name__}: {error}")
            _say("hint", f"This is a bug: please report all of this and {versions()}.", style="cyan")
            _say_what_is_newer()
            raise typer.Exit(BUG) from None
        _say("error", failure.message)
        if isinstance(failure, BrokenPass):
            _say("hint", f"{failure.hint} Say also: {versions()}.", style="cyan")
        elif failure.hint:
            _say("hint", failure.hint, style="cyan")
        if model and isinstance(failure, Refused) and failure.at:
            _say("more", f"autoconvert explain {model}", style="cyan")
        if not isinstance(failure, InputError | MachineError):
            _say_what_is_newer()
        raise typer.Exit(failure.exit_code) from None


def versions() -> str:
    """The versions that matter in a report, as one line."""
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} missing")
    return ", ".join([*found, platform.platform()])


def newer_than_tested() -> dict[str, str]:
    """The packages of which a newer release is installed than any that is tested: what is, by name."""
    newer = {}
    for package, tested in _TESTED.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        if _release(installed) > _release(tested):
            newer[package] = installed
    return newer


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version: releases that differ after them are mends."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _say_what_is_newer() -> None:
    if newer := newer_than_tested():
        found = ", ".join(f"{package} {installed}" for package, installed in newer.items())
        tested = " ".join(f"{package}=={_TESTED[package]}" for package in newer)
        _say(
            "newer",
            f"{found}: newer than what is tested, which may be the cause. Try: pip install {tested}",
            style="cyan",
        )


def _machine_error(error: Exception) -> MachineError | None:
    """The failure of the machine that `error` is, if it is one."""
    if isinstance(error, OSError) and error.errno in _MACHINE:
        place = f"{error.filename}: " if error.filename else ""
        return MachineError(f"{place}{error.strerror or error}", hint=_MACHINE[error.errno])
    # torch has no exception of its own for this.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return MachineError(f"Out of memory. {error}".rstrip(), hint=_MACHINE[errno.ENOMEM])
    return None


def _say(label: str, message: str, *, style: str = "bold red") -> None:
    Console(stderr=True, highlight=False).print(Text.assemble((f"{label}: ", style), message), soft_wrap=True)
