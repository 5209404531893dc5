"""Each seeded fault fails the default check, which says where it comes from."""

from pathlib import Path

import pytest
import torch

import autoconvert
from autoconvert.driver.compile import Stages
from autoconvert.driver.convert import convert
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Pass
from tests.check.faults import FAULTS, Fault, wrong_start_token
from tests.packaging.tiny_bundle import byte_level_tokenizer, tiny_llama
from tests.source.tiny import build, llama


def converted(tmp_path: Path, stages: Stages, tied: bool = False) -> None:
    module = build(llama(tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    convert(module, tmp_path / "out", context=32, prefill=(4,), formats=("tflite",), stages=stages)


@pytest.mark.parametrize(
    ("fault", "tied"),
    [*((fault, False) for fault in FAULTS), *((fault, True) for fault in FAULTS if fault.name == "tie")],
    ids=lambda value: value.name if isinstance(value, Fault) else ("tied" if value else "untied"),
)
def test_a_fault_in_a_pass_is_caught_and_the_pass_is_named(fault: Fault, tied: bool, tmp_path: Path) -> None:
    faulty = (*PASSES, Pass(fault.name, "A fault.", lambda program, _: fault.inject(program)))
    with pytest.raises(
        autoconvert.CheckFailed,
        match=rf"(?s)by its signatures.* after {fault.name}, where values first",
    ):
        converted(tmp_path, Stages(passes=faulty), tied)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_after_the_passes_is_caught_and_no_pass_is_blamed(fault: Fault, tmp_path: Path) -> None:
    with pytest.raises(autoconvert.CheckFailed, match=r"(?s)run by its signatures.*after what follows the passes"):
        converted(tmp_path, Stages(before_lower=fault.inject))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prepends_start", [True, False])
def test_a_wrong_start_token_is_caught_by_the_bundle_check(prepends_start: bool, tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=prepends_start)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(autoconvert.CheckFailed, match="the runtime starts a text with token"):
        convert(tmp_path / "model", tmp_path / "out", prefill=(8,), stages=Stages(before_bundle=wrong_start_token))
    assert not (tmp_path / "out").exists()
