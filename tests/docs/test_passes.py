"""docs/passes.md is what the passes say of themselves."""

import importlib.util
import inspect
import re

import pytest

from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Pass
from tests.docs.document import ROOT

SPEC = importlib.util.spec_from_file_location("write_passes", ROOT / "docs" / "write_passes.py")
assert SPEC is not None and SPEC.loader is not None
WRITER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(WRITER)


def test_the_document_is_up_to_date() -> None:
    assert WRITER.TARGET.read_text() == WRITER.document(), "run `python docs/write_passes.py`"


def test_every_pass_is_in_it_once_and_in_order() -> None:
    headings = re.findall(r"^## \d+\. (.*)$", WRITER.TARGET.read_text(), re.MULTILINE)
    assert headings == [*dict.fromkeys(each.name for each in PASSES), "outline-fixed-states", "specialize-shapes"]


@pytest.mark.parametrize("name", dict.fromkeys(each.name for each in PASSES))
def test_a_pass_that_refuses_says_what(name: str) -> None:
    ((_, module, functions),) = [each for each in WRITER.functions() if each[0] == name]
    if re.search(r"raise (Refused|Inseparable)\(", inspect.getsource(module)):
        assert any(WRITER.refusals(function) for function in functions)


@pytest.mark.parametrize("step", dict.fromkeys(PASSES), ids=lambda step: step.name)
def test_it_says_what_a_pass_requires_and_ensures(step: Pass) -> None:
    section = WRITER.TARGET.read_text().partition(f". {step.name}\n")[2].partition("\n## ")[0]
    assert step.summary in section
    for role, invariants in (("requires", step.requires), ("ensures", step.ensures)):
        assert f"- {role}: {'; '.join(each.name for each in invariants) or 'nothing'}\n" in section
