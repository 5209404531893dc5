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
    assert 'autoconvert.explain(model, patterns=["blocks.py"])   says what became of it' in text
    assert "def becomes(" in file.read_text()


def test_a_scaffold_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "blocks.py").write_text("mine")
    with pytest.raises(autoconvert.InputError, match="is there already"):
        autoconvert.explain(Decoder(_unit_length), context=CONTEXT, scaffold=tmp_path / "blocks.py")
    assert (tmp_path / "blocks.py").read_text() == "mine"
