"""Whatever decides what code does is in its fingerprint, and nothing else is."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy
import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from autoconvert.driver.cache import key_of
from autoconvert.driver.fingerprint import fingerprint
from autoconvert.driver.settings import choose
from autoconvert.source.source import Source, load_source
from tests.source.test_source import remote
from tests.source.tiny import build, llama

BLOCK = """
import importlib
from pathlib import Path
import torch
from torch import nn
{imports}
class Block(nn.Module):
    def forward(self, x):
        {inside}
        return x * {scale}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what was imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def loaded(folder: Path, name: str = "block") -> ModuleType:
    """Module `name` of `folder` as another process would find it now."""
    for known in [
        known for known in sys.modules if str(getattr(sys.modules[known], "__file__", "")).startswith(str(folder))
    ]:
        del sys.modules[known]
    importlib.invalidate_caches()
    return importlib.import_module(name)


def of_block(folder: Path, name: str = "block") -> str | None:
    return fingerprint([loaded(folder, name).Block()])


WAYS = {
    "a number": ("from helper import SCALE", "pass", "SCALE"),
    "a module": ("import helper", "pass", "helper.SCALE"),
    "a function": ("from helper import scale", "pass", "scale()"),
    "inside of a function": ("", "from helper import SCALE", "SCALE"),
    "by its name": ("", "SCALE = importlib.import_module('helper').SCALE", "SCALE"),
    "through another": ("import between", "pass", "between.helper.SCALE"),
    "a package's part": ("import parts.helper", "pass", "parts.helper.SCALE"),
    "a table": ("", "SCALE = float((Path(__file__).parent / 'scale.txt').read_text())", "SCALE"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_code_takes_from_another_file_is_in_it(way: str, folder: Path) -> None:
    imports, inside, scale = WAYS[way]
    (folder / "block.py").write_text(BLOCK.format(imports=imports, inside=inside, scale=scale))
    (folder / "between.py").write_text("import helper\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("")

    def write(scale: str) -> None:
        for place in (folder, folder / "parts"):
            (place / "helper.py").write_text(f"SCALE = {scale}\ndef scale():\n    return SCALE\n")
        (folder / "scale.txt").write_text(scale)

    write("2.0")
    before = of_block(folder)
    assert before is not None and of_block(folder) == before
    write("3.5")
    assert of_block(folder) != before


def test_a_relative_import_is_followed(folder: Path) -> None:
    package = folder / "remote_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("SCALE = 2.0\n")
    (package / "block.py").write_text(BLOCK.format(imports="", inside="from .helper import SCALE", scale="SCALE"))
    before = of_block(folder, "remote_package.block")
    (package / "helper.py").write_text("SCALE = 2.5\n")
    assert of_block(folder, "remote_package.block") != before


def test_a_file_of_numbers_that_was_read_is_in_it_by_what_was_made_of_it(folder: Path) -> None:
    table = folder / "any name at all"
    code = f"SCALE = float(open({str(table)!r}[:]).read())\n"
    (folder / "block.py").write_text(code + BLOCK.format(imports="", inside="pass", scale="SCALE"))
    prints = set()
    for scale in ("2.0", "3.0"):
        table.write_text(scale)
        prints.add(of_block(folder))
    assert len(prints) == 2


@pytest.mark.parametrize("line", ["importlib.import_module('hel' + 'per')", "exec(str(x))", "__import__(str(x))"])
def test_code_that_runs_what_it_computes_has_none(line: str, folder: Path) -> None:
    (folder / "block.py").write_text(BLOCK.format(imports="", inside=line, scale="2"))
    assert of_block(folder) is None


def test_a_class_that_is_in_no_file_has_none() -> None:
    typed_by_hand = type("Block", (nn.Module,), {"__module__": "a session of Python"})
    assert fingerprint([typed_by_hand()]) is None


def test_the_same_code_in_another_place_is_the_same(folder: Path) -> None:
    for name in ("first_place", "second_place"):
        (folder / f"{name}.py").write_text(BLOCK.format(imports="", inside="pass", scale="2"))
    assert of_block(folder, "first_place") == of_block(folder, "second_place")


@pytest.mark.parametrize(
    "value",
    [
        lambda n: n,
        lambda n: {"scale": n},
        lambda n: [1, (2, {3, n})],
        lambda n: torch.tensor(n),
        lambda n: numpy.array([n, 1.0]),
        lambda n: SimpleNamespace(scale=n),
    ],
    ids=["number", "dict", "nested", "tensor", "array", "object"],
)
def test_what_a_part_of_a_model_holds_is_in_it(value: Callable[[float], object]) -> None:
    def part(number: float) -> nn.Module:
        block = LlamaMLP(llama())
        block.held = value(number)
        return block

    assert fingerprint([part(2.0)]) == fingerprint([part(2.0)])
    assert fingerprint([part(2.0)]) != fingerprint([part(2.5)])


def test_hooks_are_in_it_and_how_many_others_there_are_is_not(folder: Path) -> None:
    lines = ("def double(part, *given):", "    return 2", "def halve(part, *given):", "    return 0.5")
    (folder / "hooks.py").write_text("\n".join(lines))
    hooks = loaded(folder, "hooks")

    def hooked(*names: str, **keywords: bool) -> str | None:
        block = LlamaMLP(llama())
        for name in names:
            block.register_forward_hook(getattr(hooks, name), **keywords)
        return fingerprint([block])

    def each() -> list[str | None]:
        return [
            hooked(),
            hooked("double"),
            hooked("halve"),
            hooked("double", "halve"),
            hooked("double", with_kwargs=True),
        ]

    assert each() == each()
    assert None not in each() and len(set(each())) == 5


def test_what_a_function_closes_over_is_in_it(folder: Path) -> None:
    (folder / "scaling.py").write_text("def scaled(factor):\n    return lambda x: x * factor\n")
    scaled = loaded(folder, "scaling").scaled
    numbers: list[object] = [2.0, 2.5, torch.tensor(2.0), torch.tensor(2.5), (2.0, [2.5])]
    assert len({fingerprint([scaled(number)]) for number in numbers}) == len(numbers)
    assert fingerprint([scaled(2.0)]) == fingerprint([scaled(2.0)]) is not None


def test_a_method_that_somebody_replaced_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    block = LlamaMLP(llama())
    before = fingerprint([block])
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: x)
    assert fingerprint([block]) != before


def test_a_function_that_somebody_replaced_in_the_model_s_module_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[LlamaMLP.__module__]
    before = fingerprint([module])
    monkeypatch.setattr(module, "rotate_half", lambda x: x)
    assert fingerprint([module]) != before


def test_weights_are_not_in_it() -> None:
    assert fingerprint([build(llama())]) == fingerprint([build(llama())])


@pytest.fixture
def modules_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
    monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("modules_cache")
def test_a_key_knows_the_helper_modules_of_remote_code(tmp_path: Path) -> None:
    def key(place: str, scale: float) -> str | None:
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        remote(folder)
        code = (folder / "modeling_remote.py").read_text()
        code = "from .helper import SCALE\n" + code.replace("* self.scale", "* self.scale * SCALE")
        (folder / "modeling_remote.py").write_text(code)
        (folder / "helper.py").write_text(f"SCALE = {scale}\n")
        return key_of(source(folder), settings)

    def source(folder: Path) -> Source:
        return load_source(folder, trust_remote_code=True)

    settings = choose(None, context=16, prefill=(4,), quantize="none", formats=("tflite",), verify="quick")
    before = key("one", 2.0)
    assert before is not None
    assert key("one", 2.5) != before
    # Another fine-tune has other weights, another name, and the same code.
    assert key("other", 2.0) == before


def test_a_configuration_says_nothing_of_where_it_came_from(tmp_path: Path) -> None:
    settings = choose(None, context=16, prefill=(4,), quantize="none", formats=("tflite",), verify="quick")
    keys = set()
    for name in ("one", "other"):
        build(llama()).save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "transformers_version": name}))
        keys.add(key_of(load_source(tmp_path / name), settings))
    assert len(keys) == 1 and None not in keys
