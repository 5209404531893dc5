"""Each seeded fault fails the default check, which says where it comes from."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config

import autoconvert
from autoconvert.check import plan
from autoconvert.driver import compile as compiling
from autoconvert.driver.compile import Stages
from autoconvert.driver.convert import convert
from autoconvert.passes.canonicalization import RULES as RIGHT_RULES
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.rewrite.pattern import Pattern
from autoconvert.rewrite.rule import Rule, RuleTable
from tests.check.faults.files import FILE_FAULTS, GRAPH_FAULTS, FileFault, GraphFault, other_activation_in
from tests.check.faults.programs import FAULTS, Fault
from tests.check.faults.rewrites import RULES, WRONG_PATTERNS
from tests.check.faults.texts import TEXT_FAULTS, TextFault
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, byte_level_tokenizer, tiny_llama
from tests.source.tiny import SIZES, build, gemma3, llama

AFTER_THE_PASSES = "goes wrong in lowering, in linking or in the runtime"
CONFIGS = {
    "llama": llama(),
    "llama-tied": llama(tie_word_embeddings=True),
    "llama-biased": llama(attention_bias=True),
    "gemma3": gemma3(),
    "gemma2": Gemma2Config(**SIZES, sliding_window=8, attn_logit_softcapping=2.0, query_pre_attn_scalar=8),
}
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed check leaves costs another conversion, and has tests of its own."""
    monkeypatch.setattr(sys.modules["autoconvert.driver.convert"], "keep_failure", lambda *_: None)


def named(value: object) -> str | None:
    return getattr(value, "name", None)


def converted(
    tmp_path: Path,
    stages: Stages,
    model: str = "llama",
    prefill: Sequence[int] = (4,),
    patterns: Sequence[Pattern] = (),
) -> None:
    module = build(CONFIGS[model])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "out"
    try:
        convert(module, folder, context=32, prefill=prefill, formats=("tflite",), stages=stages, patterns=patterns)
    finally:
        assert not folder.exists()


def as_a_pass(fault: Fault) -> Stages:
    return Stages(passes=(*PASSES, Pass(fault.name, "A fault.", lambda program, _: fault.inject(program))))


@pytest.mark.parametrize("fault", FAULTS, ids=named)
def test_a_fault_in_a_pass_is_caught_and_the_pass_is_named(fault: Fault, tmp_path: Path) -> None:
    with pytest.raises(autoconvert.CheckFailed, match=rf"(?s)by its signatures.* after {fault.name}[.,]"):
        converted(tmp_path, as_a_pass(fault), fault.model)


@pytest.mark.parametrize("name", ["scale", "last positions", "wrong weight"])
def test_a_fault_after_the_passes_is_caught_and_no_pass_is_blamed(name: str, tmp_path: Path) -> None:
    with pytest.raises(autoconvert.CheckFailed, match=r"(?s)run by its signatures.*after what follows the passes"):
        converted(tmp_path, Stages(before_lower=BY_NAME[name].inject))


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_a_wrong_rule_is_caught_where_it_applies_and_named(
    rule: Rule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["autoconvert.passes.canonicalize"]
    monkeypatch.setattr(module, "TABLE", RuleTable((rule, *RIGHT_RULES)))
    with pytest.raises(autoconvert.CheckFailed, match=f"Rule {rule.name} gives other numbers"):
        converted(tmp_path, Stages())


@pytest.mark.parametrize("pattern", WRONG_PATTERNS, ids=named)
def test_a_pattern_that_is_wrong_for_other_sizes_is_caught_where_it_matches_and_named(
    pattern: Pattern, tmp_path: Path
) -> None:
    with pytest.raises(autoconvert.CheckFailed, match=f"Pattern {pattern.name} .* gives other numbers"):
        converted(tmp_path, Stages(), patterns=(pattern,))


@pytest.mark.parametrize("fault", GRAPH_FAULTS, ids=named)
def test_a_fault_in_lowering_is_caught_and_no_pass_is_blamed(fault: GraphFault, tmp_path: Path) -> None:
    with pytest.raises(autoconvert.CheckFailed, match=rf"(?s)by its signatures.*{AFTER_THE_PASSES}"):
        converted(tmp_path, Stages(after_lower=fault.inject), prefill=(4, 16))


def test_a_prefill_that_fills_the_context_is_run_too(tmp_path: Path) -> None:
    with pytest.raises(autoconvert.CheckFailed, match=rf"(?s)by its signatures.*{AFTER_THE_PASSES}"):
        converted(tmp_path, Stages(after_lower=other_activation_in("prefill_32")), prefill=(4, 32))


@pytest.mark.parametrize("fault", FILE_FAULTS, ids=named)
def test_a_fault_in_linking_is_caught_and_the_constant_is_named(fault: FileFault, tmp_path: Path) -> None:
    with pytest.raises(autoconvert.CheckFailed, match=f"(?s){fault.said}"):
        converted(tmp_path, Stages(after_link=fault.inject))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (as_a_pass(BY_NAME["pairing"]), "(?s)by its signatures.* after pairing, where values"),
        (as_a_pass(BY_NAME["last positions"]), "(?s)by its signatures.* after last positions, where values"),
        (Stages(after_lower=GRAPH_FAULTS[0].inject), f"(?s)by its signatures.*{AFTER_THE_PASSES}"),
        (Stages(after_link=FILE_FAULTS[0].inject), FILE_FAULTS[0].said),
    ],
    ids=["pass", "pass, at the end of the context", "lowering", "linking"],
)
def test_a_large_model_is_checked_alike(
    stages: Stages, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is lowered in another process, and read to the end of its context by a text that begins late.
    monkeypatch.setattr(compiling, "_LARGE_MODEL", 0)
    monkeypatch.setattr(plan, "_READ_WHOLE", 0)
    with pytest.raises(autoconvert.CheckFailed, match=said):
        converted(tmp_path, stages, prefill=(4, 16))


@pytest.mark.parametrize("fault", TEXT_FAULTS, ids=named)
def test_a_fault_in_what_the_bundle_says_of_text_is_caught_and_named(fault: TextFault, tmp_path: Path) -> None:
    template = CHAT_TEMPLATE if fault.chats else None
    tokenizer = byte_level_tokenizer(prepends_start=fault.prepends_start, chat_template=template)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(autoconvert.CheckFailed, match=fault.said):
        convert(tmp_path / "model", tmp_path / "out", prefill=(8,), stages=Stages(before_bundle=fault.inject))
    assert not (tmp_path / "out").exists()
