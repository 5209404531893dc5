"""What a peer is, and one run of it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure import Cost, measure

BENCHMARKS = Path(__file__).parents[1]
CACHE = "cache"


@dataclass(frozen=True)
class Load:
    """What a run asks for: tokens in, tokens out after them, the most that both may be, and threads."""

    history: int = 128
    decode: int = 64
    limit: int = 4096
    threads: int = 2


@dataclass(frozen=True)
class Figures:
    """One run in a fresh process: tokens a second, seconds, and the peak of its memory in bytes."""

    prefill: float
    decode: float
    first_token_seconds: float
    load_seconds: float
    resident_bytes: int
    anonymous_bytes: int


@dataclass(frozen=True)
class Peer:
    """A converter and its runtime.

    `place` is where the user installed it (an interpreter, or a folder of npm's), None for the default.
    `version(place)` tells what is there, and raises NotInstalled with what to type where nothing is.
    `prepare(checkpoint, folder, place, limit)` writes one file `pattern` for conversations of `limit` tokens to an
    empty folder; PeerFailed if that goes wrong. `command(file, load, place)` runs it once and prints a line of JSON,
    the first four of `Figures`, whatever else it says. What a runtime keeps from run to run goes to the folder `CACHE`
    beside the file. A weight takes `weight_bits` in the file, without scales that a whole row shares, and an element of
    the cache `cache_bits` in memory: what a step has to read follows from them. `changes` is true of a converter whose
    files of yesterday say nothing about today's.
    """

    name: str
    scheme: str
    pattern: str
    weight_bits: float
    cache_bits: int
    version: Callable[[Path | None], str]
    prepare: Callable[[Path, Path, Path | None, int], None]
    command: Callable[[Path, Load, Path | None], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    changes: bool = False


class NotInstalled(Exception):
    """A peer that is not here; says what to type."""


class PeerFailed(Exception):
    """A peer that did not end well; says which command, and how its output ended."""


def run(peer: Peer, file: Path, load: Load, place: Path | None) -> Figures:
    """One run of `file` in a new process; PeerFailed if it fails or prints no figures."""
    output, cost = finished(peer.command(file, load, place), peer.environment)
    try:
        told = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith("{")))
        return Figures(
            float(told["prefill"]),
            float(told["decode"]),
            float(told["first_token_seconds"]),
            float(told["load_seconds"]),
            cost.peak_bytes,
            cost.anonymous_bytes,
        )
    except (ValueError, KeyError, StopIteration, TypeError) as error:
        raise PeerFailed(f"{peer.name} ended without figures:\n{_ending(output)}") from error


def finished(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, Cost]:
    """What a command printed, and what it cost; PeerFailed if it ends with an error or cannot be run."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            cost = measure(command, log, environment=environment)
        except OSError as error:
            raise PeerFailed(f"{command[0]} cannot be run: {error}") from error
        output = log.read_text(errors="replace")
    if cost.exit_code != 0:
        raise PeerFailed(f"exit code {cost.exit_code} of {' '.join(command)}\n{_ending(output)}")
    return output, cost


def package_version(name: str, place: Path | None, hint: str) -> str:
    """The version of a Python package in the interpreter `place`, or ours; NotInstalled with `hint` without it."""
    program = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    command = [interpreter(place), "-c", program, name]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotInstalled(hint) from error


def interpreter(place: Path | None) -> str:
    """The Python of a peer: its own where it has one, else ours."""
    return str(place or sys.executable)


def with_benchmarks() -> dict[str, str]:
    """The environment in which `python -m peers.NAME` works."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH"))))}


def _ending(output: str) -> str:
    return "\n".join(output.splitlines()[-20:])
