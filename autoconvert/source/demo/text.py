"""The text the demo model learns: the King James Bible, out of Debian's package `bible-kjv-text`."""

import hashlib
import random
import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from autoconvert.errors import InputError, MachineError

PACKAGE = "bible-kjv-text"
DATA_FILE = "usr/lib/bible.data"
TEXT_SHA256 = "e53aaf0af1e58f259e35d0d9f7ca1bbe154fd77bb95471279b37b34d3c397a98"

_WINDOW_COUNT = 0x58
_WINDOW_OFFSETS = 0x5C
_COMPRESS_HEADER = b"\x1f\x9d\x90"
_VERSE = re.compile(r"(?P<chapter>\w+):\d+ (?P<words>.+)")


@dataclass(frozen=True)
class Split:
    """Chapters in the order of the book; within a chapter one verse a line, no empty lines."""

    train: list[str]
    validation: list[str]
    heldout: list[str]


def fetch() -> str:
    """The text as the package has it, one `Ge1:1 In the beginning …` a line, under a title line.

    Needs `apt-get`, `dpkg` and `gzip`. Raises MachineError where they fail and InputError where the package
    holds another edition of the text.
    """
    with tempfile.TemporaryDirectory() as folder:
        _run("apt-get", "download", PACKAGE, cwd=folder)
        package = next(Path(folder).glob(f"{PACKAGE}_*.deb"))
        _run("dpkg", "-x", package.name, "unpacked", cwd=folder)
        text = decompress((Path(folder) / "unpacked" / DATA_FILE).read_bytes())
    if hashlib.sha256(text).hexdigest() != TEXT_SHA256:
        raise InputError(
            f"{PACKAGE} holds another text than the one the demo model was made from",
            hint=f"compare the package's changelog, then set TEXT_SHA256 in {Path(__file__).name}",
        )
    return text.decode("ascii")


def decompress(data: bytes) -> bytes:
    """The text in a data file of the Bible Retrieval System (the format that its README.bible describes).

    The file is the output of compress(1) in windows that decode alone: big-endian u32s give their number and
    offsets, and only the first window is preceded by compress's own header.
    """
    (count,) = struct.unpack_from(">I", data, _WINDOW_COUNT)
    offsets = [*struct.unpack_from(f">{count}I", data, _WINDOW_OFFSETS), len(data)]
    windows = (data[start:end] for start, end in pairwise(offsets))
    return b"".join(_run("gzip", "-dc", stdin=_COMPRESS_HEADER + window) for window in windows)


def chapters(text: str) -> list[str]:
    """The chapters without references: one verse a line."""
    verses: dict[str, list[str]] = {}
    for line in text.splitlines()[1:]:
        if (verse := _VERSE.fullmatch(line)) is None:
            raise InputError(f"not a verse: {line[:60]!r}", hint="give the text as the package has it")
        verses.setdefault(verse["chapter"], []).append(" ".join(verse["words"].split()))
    return ["\n".join(lines) for lines in verses.values()]


def split(documents: list[str], seed: int, aside: int = 40) -> Split:
    """Sets `aside` random documents aside for validation and as many as held-out text."""
    chosen = random.Random(seed).sample(range(len(documents)), 2 * aside)
    validation, heldout = set(chosen[:aside]), set(chosen[aside:])
    return Split(
        train=[d for i, d in enumerate(documents) if i not in validation and i not in heldout],
        validation=[documents[i] for i in sorted(validation)],
        heldout=[documents[i] for i in sorted(heldout)],
    )


def write_documents(path: Path, documents: list[str]) -> None:
    """Writes documents as a text file, an empty line between two."""
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def _run(*command: str, cwd: str | None = None, stdin: bytes | None = None) -> bytes:
    try:
        return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        hint = "run this on Debian or Ubuntu, or give --text"
        raise MachineError(f"{command[0]} is not installed", hint=hint) from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise MachineError(f"{' '.join(command)} failed: {reason}", hint="apt-get update, or --text") from error
