"""A document whose fenced blocks are run: Python is written to files, commands are typed, and their output compared.

`python -m tests.docs.document` writes the output anew into docs/patterns.md.
"""

import contextlib
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import dynamic_module_utils

from autoconvert.cli import main

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "patterns.md"

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PIPED = re.compile(r"(.*?)(?: \| (head|tail) -(\d+))?")
# What another run or another machine says differently.
_VARYING = (
    (re.compile(r"[^\s(]*/orchard\.py"), "…/orchard.py"),
    (re.compile(r"\d+\.\d s\b"), "0.0 s"),
    (re.compile(r"\d+(\.\d+)? [kMG]?B|\d+ bytes"), "0 B"),
    (re.compile(r"\d\.\de-\d\d"), "0.0e-00"),
    (re.compile(r" +"), " "),
)


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def fenced(document: str) -> list[Block]:
    return [Block(*match.groups()) for match in _FENCED.finditer(document)]


def without_fenced(document: str) -> str:
    return _FENCED.sub("", document)


def files(document: str) -> dict[str, str]:
    """The Python files of a document: blocks that begin with the name of one follow each other in it."""
    found: dict[str, str] = {}
    for block in fenced(document):
        if block.language == "python":
            name, text = _named(block.text)
            found[name] = _joined(found.get(name, ""), text)
    return found


def rerun(document: str, folder: Path) -> str:
    """The document with what its commands say, typed in `folder`, where its files are written as they come."""

    def again(match: re.Match[str]) -> str:
        language, text = match.groups()
        if language == "python":
            name, code = _named(text)
            file = folder / name
            file.write_text(_joined(file.read_text() if file.exists() else "", code))
        if language != "console":
            return match.group()
        command = text.splitlines()[0]
        typed, end, lines = _PIPED.fullmatch(command.removeprefix("$ ")).groups()  # type: ignore[union-attr]
        output = _readable(_output(shlex.split(typed))).splitlines(keepends=True)
        shown = {None: output, "head": output[: int(lines or 0)], "tail": output[-int(lines or 0) :]}[end]
        return f"```console\n{command}\n{''.join(shown)}```"

    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "orchard.py", folder / "docs")
    with _in_folder(folder):
        return _FENCED.sub(again, document)


def comparable(document: str) -> str:
    """Without times, sizes, rounding and the folders of a machine."""
    for pattern, instead in _VARYING:
        document = pattern.sub(instead, document)
    return document


def _named(text: str) -> tuple[str, str]:
    first, _, code = text.partition("\n")
    assert first.startswith("# "), f"a block of Python begins with the name of its file: {first}"
    return first.removeprefix("# "), code


def _joined(before: str, text: str) -> str:
    return f"{before}\n\n{text}" if before else text


def _readable(output: str) -> str:
    return re.sub(r"[^\s(]*/(orchard\.py)", r"…/\1", output)


def _output(words: list[str]) -> str:
    if words[0] != "autoconvert":
        command = [sys.executable, *(words[1:] if words[0] == "python" else ["-m", *words, "-p", "no:cacheprovider"])]
        environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["HF_MODULES_CACHE"] = "modules"
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout if words[0] == "python" else _verdict(done.stdout)
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written), contextlib.suppress(SystemExit):
        main(words[1:])
    written.seek(0)
    return written.read()


def _verdict(said: str) -> str:
    """Of pytest's output only how many passed: warnings are those of libraries."""
    return "".join(f"{line}\n" for line in re.findall(r"^\d+ passed", said, re.MULTILINE))


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    level = logging.root.manager.disable
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
        try:
            yield
        finally:
            logging.disable(level)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        GUIDE.write_text(rerun(GUIDE.read_text(), Path(name)))
