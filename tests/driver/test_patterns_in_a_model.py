"""Patterns from outside that hold alone and fail in a model: file, line and reason, wherever they fail."""

from pathlib import Path

import pytest
import torch

import autoconvert
from autoconvert.errors import CheckFailed, InputError
from tests.models import CONTEXT, Decoder, causal

IMPORTS = """import sys
import torch
from torch import Tensor
from autoconvert import ops
from autoconvert.pattern import Pattern
"""
MATCHES = "def tanh(x: Tensor) -> Tensor:\n    return torch.tanh(x)\n"
# The example is 14 wide, the model 8.
HALF = "def becomes(x: Tensor) -> Tensor:\n    y = 2 * torch.sigmoid(2 * x) - 1\n    return {}\n"
OWN = "def own(x: Tensor) -> Tensor:\n    return torch.tanh(x)\n"


def pattern(becomes: str = "becomes", more: str = "", name: str = "mine", matches: str = "tanh") -> str:
    return f'Pattern("{name}", "activation", {matches}, {becomes}, {{"x": (1, 5, 14)}}{more})'


def patterns(*each: str) -> str:
    return f"PATTERNS = ({', '.join(each)},)\n"


def becomes(result: str) -> str:
    return MATCHES + HALF.format(result) + patterns(pattern())


def guarded(guard: str) -> str:
    return MATCHES + HALF.format("y") + patterns(pattern(more=f", guard=lambda x: {guard}"))


def operation(device: str) -> str:
    return (
        MATCHES
        + OWN
        + f"OWN = ops.operation(own, device=lambda x: {device})\n"
        + patterns(pattern("OWN", ", operations=(OWN,)"))
    )


# The text after the imports, the line of the file, and what is wrong with it.
WRONG: dict[str, tuple[str, int, str]] = {
    "a size of the example": (
        becomes("y.reshape(1, 5, 14)"),
        10,
        "pattern mine: `becomes` cannot be run where it matched, with x [1, s",
    ),
    "another result": (becomes("y if x.shape[-1] == 14 else (y, y)"), 8, "`becomes` does not give one tensor where"),
    "calls itself": (becomes("y if x.shape[-1] == 14 else becomes(x)"), 9, "maximum recursion depth exceeded"),
    "leaves the program": (becomes("y if x.shape[-1] == 14 else sys.exit(0)"), 10, "`becomes` cannot be run where it"),
    "fails on numbers alone": (
        becomes("y if x.shape[-1] == 14 else y * torch.linalg.cholesky(-torch.eye(8))[0, 0]"),
        8,
        "`becomes` cannot be run where it matched, with x [1, 7, 8]: linalg.cholesky",
    ),
    "a guard that fails": (guarded("None if x.shape[-1] == 14 else x.nothing"), 11, "`guard` fails: "),
    "a guard that says yes": (guarded("None if x.shape[-1] == 14 else True"), 11, "`guard` gives True."),
    "a device body for the example": (
        operation("torch.tanh(x).reshape(1, 5, 14)"),
        10,
        "operation outside.own",
    ),
    "a device body of another shape": (operation("torch.tanh(x)[..., :14].relu()[..., :1] + 0 * x[..., :1]"), 10, ""),
    "two that undo each other": (
        MATCHES
        + OWN
        + "OWN = ops.operation(own)\n"
        + "def mine(x: Tensor) -> Tensor:\n    return OWN(x)\n"
        + patterns(pattern("OWN", ", operations=(OWN,)"), pattern("tanh", "", "other", "mine")),
        8,
        "`becomes` gives the block of `matches` again, by way of other: no end.",
    ),
}


def explanation(file: Path, model: Decoder | None = None) -> autoconvert.Explanation:
    return autoconvert.explain(model or Decoder(mix=lambda _, x: torch.tanh(x)), context=CONTEXT, patterns=[file])


def written(folder: Path, text: str) -> Path:
    file = folder / "blocks.py"
    file.write_text(IMPORTS + text)
    return file


@pytest.mark.parametrize("what", WRONG)
def test_what_fails_in_a_model_is_said_with_its_file_and_line(what: str, tmp_path: Path) -> None:
    text, line, expected = WRONG[what]
    file = written(tmp_path, text)
    with pytest.raises(InputError) as raised:
        explanation(file)
    assert raised.value.message.startswith(f"{file}:{line}: ")
    assert expected in raised.value.message


def test_other_numbers_in_the_model_are_found_before_it_is_called_covered(tmp_path: Path) -> None:
    file = written(tmp_path, becomes("y if x.shape[-1] == 14 else y * 1.01"))
    with pytest.raises(CheckFailed, match=r"Pattern mine .*blocks.py:6.* gives other numbers"):
        explanation(file)


def test_a_pattern_that_matches_nowhere_is_told_with_what_it_met(tmp_path: Path) -> None:
    file = written(
        tmp_path, MATCHES.replace("tanh(x)", "tanh(x + 3.0)") + HALF.format("2 * torch.sigmoid(2 * x + 6) - 1")
    )
    file.write_text(file.read_text() + patterns(pattern()))
    assert explanation(file, Decoder(lambda _, x: torch.tanh(x + 3.0))).unmatched == ()
    (near,) = explanation(file, Decoder(lambda _, x: torch.tanh(x * 3.0))).unmatched
    assert near.pattern == "mine" and near.source.endswith("blocks.py:6")
    assert near.nearest is not None and (near.nearest.matched, near.nearest.of) == (1, 2)
    assert (near.nearest.operation, near.nearest.reason) == ("mul", "the pattern expects add")
    (far,) = explanation(file, Decoder()).unmatched
    assert far.nearest is None


def test_a_conversion_says_that_no_pattern_of_a_file_matched(tmp_path: Path) -> None:
    file = written(tmp_path, MATCHES + HALF.format("y") + patterns(pattern()))
    chosen = {"context": CONTEXT, "formats": ("tflite",), "patterns": [file]}
    notes = [
        autoconvert.convert(model, tmp_path / name, **chosen).report.notes  # type: ignore[arg-type]
        for name, model in {"with": Decoder(lambda _, x: torch.tanh(x)), "without": Decoder(attend=causal)}.items()
    ]
    assert notes[0] == []
    assert notes[1] == [f"no pattern of {file} matched; `autoconvert explain` says how near they came"]
