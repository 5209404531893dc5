"""The guide to patterns: every block of it runs, and its file makes a model of unknown blocks a right and small one."""

import ast
import importlib.util
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import autoconvert
from autoconvert.check.parity import distance, random_tokens
from autoconvert.driver.convert import Bundle
from autoconvert.driver.library import libraries, load_file
from autoconvert.errors import Refused
from autoconvert.lowering.flatbuffer import read_model
from autoconvert.passes.fuse import fuse
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pattern import Pattern
from autoconvert.runtime.runner import open_file
from tests import models
from tests.docs.document import GUIDE, ROOT, comparable, fenced, files, rerun, without_fenced

CONTEXT = 24
MOST_LINES = 10


@pytest.fixture(scope="module")
def orchard() -> nn.Module:
    spec = importlib.util.spec_from_file_location("orchard_of_the_guide", ROOT / "docs" / "orchard.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return models.noisy(module.OrchardForCausalLM(module.OrchardConfig()))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("guide") / "blocks.py"
    file.write_text(files(GUIDE.read_text())["blocks.py"])
    return file


def converted(module: nn.Module, patterns: Sequence[Path | Pattern], folder: Path) -> Bundle:
    return autoconvert.convert(
        module,
        folder,
        quantize="none",
        context=CONTEXT,
        prefill=(8, 3),
        formats=("tflite",),
        verify="off",
        patterns=patterns,
    )


def worst_distance(module: nn.Module, bundle: Bundle) -> float:
    """The file against the module, prefilled up to and decoded at every position."""
    tokens = random_tokens(CONTEXT, 97)
    with torch.no_grad():
        expected = module(torch.tensor([tokens])).logits[0]
    with open_file(bundle.files["tflite"]) as runner:
        logits = torch.stack([runner.logits_at(tokens, position) for position in range(CONTEXT)])
    return float(distance(logits, expected).max())


def operations(bundle: Bundle) -> int:
    """How many the graph of a single token has."""
    model = read_model(bundle.files["tflite"].read_bytes())
    index = next(each.subgraphIndex for each in model.signatureDefs if each.signatureKey.decode() == "decode")
    return len(model.subgraphs[index].operators)


def test_every_block_of_the_guide_gives_what_it_says(tmp_path: Path) -> None:
    document = GUIDE.read_text()
    assert comparable(rerun(document, tmp_path)) == comparable(document)


def test_the_package_of_the_guide_brings_its_patterns(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = (block for block in fenced(GUIDE.read_text()) if block.language == "toml")
    ((group, entries),) = tomllib.loads(block.text)["project"]["entry-points"].items()
    ((name, module),) = entries.items()
    file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir()
    file.write_text(blocks.read_text())
    installed = tmp_path / "orchard_patterns-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: orchard-patterns\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (found,) = libraries()
    assert found.origin == "orchard-patterns 1.0"
    assert [pattern.name for pattern in found.patterns][:2] == ["orchard.attention", "orchard.norm"]


def test_the_lines_of_the_model_that_the_guide_shows_are_its_own() -> None:
    code = (ROOT / "docs" / "orchard.py").read_text()
    shown = [line.strip() for line in without_fenced(GUIDE.read_text()).splitlines() if line.startswith("    ")]
    assert shown and all(line in code for line in shown)


def test_without_its_file_the_model_has_no_known_block_and_is_refused(orchard: nn.Module, tmp_path: Path) -> None:
    fused = fuse(models.traced(orchard), PATTERNS, lambda *_: None)
    assert not fused.fusion.blocks
    with pytest.raises(Refused, match="outside a fused attention"):
        converted(orchard, [], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_with_the_attention_alone_it_is_right_and_with_all_blocks_smaller_too(
    orchard: nn.Module, blocks: Path, tmp_path: Path
) -> None:
    (attention,) = (pattern for pattern in load_file(blocks).patterns if pattern.block == "attention")
    alone, whole = (converted(orchard, given, tmp_path / str(len(given[0].name))) for given in ([attention], [blocks]))
    assert alone.report.patterns == {"orchard.attention": 2}
    assert whole.report.patterns == {
        "orchard.attention": 2,
        "orchard.norm": 5,
        "orchard.rotary": 4,
        "orchard.feed_forward": 2,
    }
    assert max(worst_distance(orchard, bundle) for bundle in (alone, whole)) < 1e-4
    said = f"has {operations(whole)} operations instead of {operations(alone)}"
    assert said in GUIDE.read_text(), said


def test_no_block_of_the_file_takes_more_than_ten_lines(blocks: Path) -> None:
    made: dict[str, ast.stmt] = {}
    for node in ast.parse(blocks.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            made[node.name] = node
        elif isinstance(node, ast.Assign):
            made[ast.unparse(node.targets[0])] = node

    def needed(name: str) -> set[str]:
        words = {word.id for word in ast.walk(made[name]) if isinstance(word, ast.Name)} & set(made)
        return {name}.union(*(needed(word) for word in words - {name}))

    patterns = [word for word in needed("PATTERNS") if word.isupper() and "Pattern(" in ast.unparse(made[word])]
    assert len(patterns) == 4
    for pattern in patterns:
        used = [made[name] for name in needed(pattern)]
        assert sum((node.end_lineno or 0) - node.lineno + 1 for node in used) <= MOST_LINES, pattern


def test_the_file_imports_no_pattern_of_the_project(blocks: Path) -> None:
    imported = [
        node for node in ast.walk(ast.parse(blocks.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not [node for node in imported if "autoconvert.patterns" in ast.unparse(node)]
