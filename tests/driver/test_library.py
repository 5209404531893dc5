"""Pattern files and packages: what is wrong in one is said with its file and line, and no traceback."""

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoconvert.cli.convert import app as convert_app
from autoconvert.cli.patterns import app as patterns_app
from autoconvert.cli.plan import app as plan_app
from autoconvert.driver import library
from autoconvert.driver.library import digests, in_order, libraries, load_file
from autoconvert.errors import InputError
from autoconvert.patterns import PATTERNS

IMPORTS = """import torch
from torch import Tensor
from autoconvert import ops
from autoconvert.rewrite.pattern import Pattern
"""
RIGHT = """def twice(x: Tensor, k: float) -> Tensor:
    return torch.relu(x) * k


PATTERNS = (
    Pattern("mine", "activation", twice, lambda x, k: x.clamp_min(0) * k, {"x": (1, 5, 14), "k": 2.0}),
)
"""
SQUARE = "def square(x: Tensor, y: Tensor) -> Tensor:\n    return torch.relu(x * y)\n"
OTHER = "def other(x: Tensor, y: Tensor) -> Tensor:\n    return torch.relu(x + y)\nOTHER = ops.operation(other)\n"
UNIT = "def unit(x: Tensor, eps: float) -> Tensor:\n    return x / (x.norm(dim=-1, keepdim=True) + eps)\n"


def listed(tmp_path: Path, text: str) -> Result:
    """`autoconvert patterns` with a file that begins with four lines of imports."""
    file = tmp_path / "blocks.py"
    file.write_text(IMPORTS + text)
    return CliRunner().invoke(patterns_app, ["--patterns", str(file)])


def pattern(
    matches: str = "square",
    becomes: str = "square",
    example: str = '{"x": (1, 5, 14), "y": (14,)}',
    more: str = "",
) -> str:
    return f'PATTERNS = (Pattern("mine", "block", {matches}, {becomes}, {example}{more}),)\n'


# The text after the imports, the line of the file, and what is wrong with it.
WRONG: dict[str, tuple[str, int, str]] = {
    "syntax": ("def square(x:\n", 5, "'(' was never closed"),
    "an exception": ("\nnorm = ops.no_such_norm\n", 6, "AttributeError: module 'autoconvert.ops' has no attribute"),
    "an argument left out": (
        SQUARE + 'PATTERNS = (\n    Pattern("mine", "block", square, square),\n)\n',
        8,
        "missing 1 required positional argument: 'example'",
    ),
    "patterns that are none": (SQUARE + "PATTERNS = square\n", 7, "PATTERNS is a function, not a tuple"),
    "no entry": ("PATTERNS = ()\n", 5, "PATTERNS is empty"),
    "an entry that is no pattern": (
        SQUARE + 'PATTERNS = (\n    Pattern("a", "b", square, square, {}),\n    square,\n)\n',
        9,
        "entry 2 of PATTERNS is a function, not a Pattern",
    ),
    "matches that is no function": (SQUARE + pattern(matches="3"), 5, "`matches` is not a function"),
    "another parameter in the example": (
        SQUARE + pattern(example='{"x": (1, 5, 14), "z": (14,)}'),
        5,
        "`matches` has the parameters x, y; `example` has x, z",
    ),
    "another parameter in becomes": (
        SQUARE + pattern(becomes="lambda x, z: x"),
        7,
        "`becomes` cannot be called with the parameters of `matches`, x, y: missing a required argument: 'z'",
    ),
    "another parameter in the guard": (SQUARE + pattern(more=", lambda x: None"), 7, "`guard` cannot be called"),
    "an example that is no dict": (SQUARE + pattern(example="lambda: 3"), 5, "`example` is no dict"),
    "an example of something else": (
        SQUARE + pattern(example='{"x": (1, 5, 14), "y": "many"}'),
        5,
        "`example` has 'many' for `y`",
    ),
    "no annotation": (
        SQUARE.replace("y: Tensor", "y") + pattern(),
        5,
        "the parameter `y` of `matches` has no annotation",
    ),
    "another annotation": (
        SQUARE.replace("y: Tensor", "y: float") + pattern(),
        5,
        "`y` is annotated `float`, the example has (14,)",
    ),
    "an annotation that is not known": (SQUARE.replace("y: Tensor", "y: 'Vector'") + pattern(), 5, "cannot be read"),
    "matches that cannot be run": (
        SQUARE + pattern(example='{"x": (1, 5, 14), "y": (13,)}'),
        6,
        "`matches` cannot be run on the example: The size of tensor a (14) must match",
    ),
    "becomes that cannot be run": (SQUARE + pattern(becomes="lambda x, y: x @ x"), 7, "`becomes` cannot be run"),
    "a guard that cannot be run": (SQUARE + pattern(more=", lambda x, y: x.no"), 7, "`guard` cannot be run"),
    "a guard that declines its example": (
        SQUARE + pattern(more=', lambda x, y: "too wide"'),
        7,
        "`guard` declines the pattern's own example: too wide",
    ),
    "a guard that says yes": (SQUARE + pattern(more=", lambda x, y: x.ndim == 3"), 7, "`guard` gives True."),
    "a name that is no text": (SQUARE + pattern().replace('"mine"', "square"), 5, "`name` is no text"),
    "an operation that cannot be run": (
        "double = ops.operation(lambda x: x * 2)\n",
        5,
        "Parameter x must have a type annotation",
    ),
    "an end of the program": ("\nraise SystemExit(0)\n", 6, "SystemExit: 0"),
    "no text at all": ("\0", 1, "null bytes"),
    "another shape": (
        SQUARE + pattern(becomes="lambda x, y: (x * y).relu()[0]"),
        7,
        "`becomes` gives the shape [5, 14] where `matches` gives [1, 5, 14]",
    ),
    "other numbers": (
        SQUARE + pattern(becomes="lambda x, y: (x * y).relu() * 1.001"),
        7,
        "`becomes` gives other numbers than `matches` on the example",
    ),
    "other numbers of an operation": (
        SQUARE + OTHER + pattern(becomes="OTHER", more=", operations=(OTHER,)"),
        7,
        "`becomes` gives other numbers than `matches` on the example",
    ),
    "an epsilon that is left out": (
        UNIT + pattern("unit", "lambda x, eps: x / x.norm(dim=-1, keepdim=True)", '{"x": (1, 5, 14), "eps": 1e-5}'),
        7,
        "`becomes` gives other numbers than `matches` on numbers 0.001 times those of the example",
    ),
    "its own block again": (SQUARE + pattern(), 5, "`becomes` gives the block of `matches` again"),
    "an end of the program in becomes": (
        "import sys\n" + SQUARE + pattern(becomes="lambda x, y: sys.exit(0)"),
        8,
        "`becomes` cannot be run on the example: 0",
    ),
    "several results": (SQUARE + pattern(becomes="lambda x, y: (x, y)"), 7, "`becomes` gives tuple, not one tensor"),
    "a number that was computed with": (
        RIGHT.replace("* k\n", "* (k + 1)\n").replace("* k,", "* (k + 1),"),
        5,
        "the number `k` is not in the traced function",
    ),
    "a parameter that is not used": (
        SQUARE.replace("x * y", "x") + pattern(),
        5,
        "`matches` does not use the parameter `y`",
    ),
    "nothing to match": (
        "def same(x: Tensor) -> Tensor:\n    return x\n" + pattern("same", "same", '{"x": (3,)}'),
        5,
        "nothing",
    ),
    "a name twice": (
        RIGHT + "PATTERNS = (*PATTERNS, *(Pattern(**vars(p)) for p in PATTERNS))\n",
        5,
        "another one of this name at",
    ),
    "the name of a built-in one": (RIGHT.replace('"mine"', '"rms_norm"'), 5, "another one of this name at"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_with_its_file_and_line(what: str, tmp_path: Path) -> None:
    text, line, expected = WRONG[what]
    result = listed(tmp_path, text)
    assert result.exit_code == 2, result.output
    place = f"{tmp_path / 'blocks.py'}:{line}: "
    message = result.stderr.removeprefix("error: ")
    assert message.startswith(place) and expected in message
    assert "Traceback" not in result.output


def test_a_file_without_patterns_says_what_it_should_end_in(tmp_path: Path) -> None:
    result = listed(tmp_path, SQUARE)
    assert result.exit_code == 2
    assert f"{tmp_path / 'blocks.py'}: there is no PATTERNS in it." in result.stderr
    assert "hint: A pattern file ends in PATTERNS" in result.stderr


def test_a_file_that_is_not_there_is_bad_usage_of_a_conversion_too(tmp_path: Path) -> None:
    for app, words in ((patterns_app, []), (convert_app, ["demo"]), (plan_app, ["demo"])):
        result = CliRunner().invoke(app, [*words, "--patterns", str(tmp_path / "none.py")])
        assert result.exit_code == 2
        assert f"{tmp_path / 'none.py'}: No such file or directory." in result.stderr


def test_patterns_are_listed_by_kind_and_those_of_a_file_are_tried_first(tmp_path: Path) -> None:
    result = listed(tmp_path, RIGHT)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "activation"
    assert lines[1].split() == ["mine", f"{tmp_path / 'blocks.py'}:5"]
    assert lines[2].split()[0] == "gelu_tanh"
    assert any(line.split()[-1].startswith("autoconvert/patterns/norms.py:") for line in lines)
    assert [pattern.name for pattern in in_order(libraries([tmp_path / "blocks.py"]))] == [
        "mine",
        *(pattern.name for pattern in PATTERNS),
    ]


def test_a_file_is_read_anew_each_time_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "blocks.py"
    file.write_text(IMPORTS + RIGHT)
    before = load_file(file)
    file.write_text(IMPORTS + RIGHT.replace('"mine"', '"ours"'))
    after = load_file(file)
    assert [library.patterns[0].name for library in (before, after)] == ["mine", "ours"]
    assert before.digest != after.digest
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_file_imports_is_part_of_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shapes_of_blocks.py").write_text("EXAMPLE = {'x': (1, 5, 14), 'k': 2.0}\n")
    file = tmp_path / "blocks.py"
    file.write_text(IMPORTS + "import shapes_of_blocks\n" + RIGHT)
    before = load_file(file).digest
    assert load_file(file).digest == before
    (tmp_path / "shapes_of_blocks.py").write_text("EXAMPLE = {'x': (1, 5, 22), 'k': 2.0}\n")
    assert load_file(file).digest != before
    sys.modules.pop("shapes_of_blocks")


def test_patterns_made_by_hand_have_no_digest(tmp_path: Path) -> None:
    (tmp_path / "blocks.py").write_text(IMPORTS + RIGHT)
    from_file = libraries([tmp_path / "blocks.py"])
    assert digests(from_file) == [from_file[0].digest]
    assert digests(libraries(from_file[0].patterns)) is None


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that an installed package names under the entry point, empty yet."""
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("installed_blocks", None)
    importlib.invalidate_caches()
    entry = EntryPoint(name="some", value="installed_blocks", group=library.GROUP)
    monkeypatch.setattr(library, "entry_points", lambda group: [entry])
    return tmp_path / "installed_blocks.py"


def test_installed_packages_bring_their_patterns(package: Path) -> None:
    package.write_text(IMPORTS + RIGHT)
    (found,) = libraries()
    assert (found.origin, [pattern.name for pattern in found.patterns]) == ("some", ["mine"])
    assert CliRunner().invoke(patterns_app, []).output.splitlines()[1].split() == ["mine", "installed_blocks.py:5"]


def test_an_entry_of_a_package_that_is_no_pattern_has_its_line(package: Path) -> None:
    package.write_text(IMPORTS + SQUARE + "PATTERNS = (\n    square,\n)\n")
    with pytest.raises(InputError, match=rf"{package}:8: entry 1 of PATTERNS is a function, not a Pattern"):
        libraries()


def test_a_package_that_is_broken_is_named(package: Path) -> None:
    package.write_text("import no_such_thing\n")
    with pytest.raises(InputError, match="patterns installed_blocks of some cannot be loaded: ModuleNotFoundError"):
        libraries()
