"""Ours, with default flags."""

import sys
from pathlib import Path

from peers.litert_lm_command import engine_version, litert_lm_command
from peers.peer import Peer, finished, package_version, with_benchmarks


def version(_place: Path | None) -> str:
    return f"{package_version('autoconvert', None, 'pip install -e .')}, {engine_version()}"


def prepare(checkpoint: Path, folder: Path, _place: Path | None, limit: int) -> None:
    finished([sys.executable, "-m", "autoconvert", str(checkpoint), "-o", str(folder), "--context", str(limit)])


PEER = Peer(
    name="autoconvert",
    scheme="int8, a scale a row",
    pattern="*.litertlm",
    weight_bits=8,
    cache_bits=32,
    version=version,
    prepare=prepare,
    command=litert_lm_command,
    environment=with_benchmarks(),
    changes=True,
)
