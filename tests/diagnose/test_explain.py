"""`autoconvert.explain` takes what `convert` takes: a module of one's own, patterns, a file for the next one."""

from pathlib import Path

import pytest

import autoconvert
from tests.diagnose.test_explanation import _unit_length
from tests.models import CONTEXT, Decoder


def test_a_module_is_explained_and_its_first_block_scaffolded(tmp_path: Path) -> None:
    file = tmp_path / "blocks.py"
    explanation = autoconvert.explain(Decoder(_unit_length), context=CONTEXT, scaffold=file)
    assert explanation.missing is None and [each.kind for each in explanation.declined] == ["norm"]
    text = str(explanation)
    assert text.startswith("Decoder: covered, with a context of 32\n")
    assert f'autoconvert.explain(model, patterns=["{file}"])   says what became of it' in text
    assert text.endswith(f"wrote {file}: what the block becomes is for you to finish")
    assert "def becomes(" in file.read_text()


def test_what_was_given_is_given_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(NOWHERE)
    text = str(autoconvert.explain(Decoder(_unit_length), context=CONTEXT, patterns=[file]))
    assert f'autoconvert.explain(model, patterns=["{file}"], scaffold="blocks.py")   writes the beginning' in text
    assert f'autoconvert.explain(model, patterns=["{file}", "blocks.py"])   says what became of it' in text


NOWHERE = """
import torch
from torch import Tensor
from autoconvert.pattern import Pattern

def nowhere(x: Tensor) -> Tensor:
    return torch.exp(torch.erf(x))

PATTERNS = (Pattern("nowhere", "activation", nowhere, lambda x: torch.exp(0.5 * torch.erf(x)).square(), {"x": (1, 5)}),)
"""


def test_a_scaffold_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "blocks.py").write_text("mine")
    with pytest.raises(autoconvert.InputError, match="is there already"):
        autoconvert.explain(Decoder(_unit_length), context=CONTEXT, scaffold=tmp_path / "blocks.py")
    assert (tmp_path / "blocks.py").read_text() == "mine"
