"""A failed check leaves a folder by which it fails again: with random weights, elsewhere; or it says why not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import autoconvert
from autoconvert.cli.reproduce import app
from autoconvert.driver import keep_failure
from autoconvert.driver.compile import Stages
from autoconvert.driver.failure import MANIFEST
from autoconvert.driver.keep_failure import _free_name
from autoconvert.errors import CheckFailed, InputError
from autoconvert.ir.program import Program
from autoconvert.passes.canonicalization import RULES as RIGHT_RULES
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Options, Pass
from autoconvert.rewrite.rule import RuleTable
from tests.check.faults.files import FILE_FAULTS
from tests.check.faults.programs import FAULTS
from tests.check.faults.rewrites import RULES
from tests.check.faults.texts import TEXT_FAULTS
from tests.models import Decoder
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, byte_level_tokenizer, tiny_llama
from tests.source.tiny import build, llama

FAULT = next(fault for fault in FAULTS if fault.name == "pairing")
FAULTY = Stages(passes=(*PASSES, Pass(FAULT.name, "A fault.", lambda program, _: FAULT.inject(program))))
ONE_LAYER = {"context": 16, "prefill": (4,), "formats": ("tflite",)}


def at_once(fails: Callable[[], bool] = lambda: True) -> Stages:
    """A check that fails, where it does, as soon as the model is traced: for what follows, whatever has failed."""

    def run(program: Program, _: Options) -> Program:
        if fails():
            raise CheckFailed("it is wrong", blamed="wrong", at="all of it")
        return program

    return Stages(passes=(Pass("wrong", "A failed check.", run), *PASSES))


def failed(model: nn.Module | Path, output: Path, stages: Stages, **options: object) -> CheckFailed:
    chosen = {**ONE_LAYER, **options}
    with pytest.raises(CheckFailed) as caught:
        autoconvert.convert(model, output, stages=stages, cache=False, **chosen)  # type: ignore[arg-type]
    assert not output.exists()
    return caught.value


def tiny() -> nn.Module:
    return build(llama(num_hidden_layers=1))


def saved(folder: Path) -> Path:
    build(llama(num_hidden_layers=1)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> CheckFailed:
    """What the fault in a pass leaves, elsewhere and without the model, for tests that only read it."""
    here = tmp_path_factory.mktemp("kept")
    failure = failed(saved(here / "model"), here / "out", FAULTY)
    assert failure.folder == here / "out-failure"
    assert f"autoconvert reproduce {failure.folder}" in failure.hint and "report" in failure.hint
    assert not list(failure.folder.rglob("*.safetensors")) and str(here) not in texts(failure.folder)
    failure.folder = moved(failure, here)
    shutil.rmtree(here / "model")
    return failure


def folder_of(failure: CheckFailed) -> Path:
    assert failure.folder is not None
    return failure.folder


def moved(failure: CheckFailed, tmp_path: Path) -> Path:
    """The folder elsewhere, and nothing else of what was there."""
    assert failure.folder is not None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return Path(shutil.move(failure.folder, elsewhere / "sent"))


def texts(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.rglob("*") if file.suffix in (".json", ".md", ".txt"))


def test_a_fault_in_a_pass_fails_again_elsewhere_without_the_weights(kept: CheckFailed) -> None:
    folder = folder_of(kept)
    found = autoconvert.reproduce(folder, stages=FAULTY)
    assert found.fails_as_before and found.now is not None
    assert (found.now.check, found.now.blamed) == ("check file", "pairing")
    assert found.now.at == kept.at == "autoconvert.rotary in model.layers.0.self_attn"
    assert not found.versions
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 100_000


def test_the_folder_shows_the_graph_before_and_after_the_pass_to_blame(kept: CheckFailed) -> None:
    before, after = sorted((folder_of(kept) / "graph").iterdir())
    assert after.name.endswith("-pairing.txt")
    added = set(after.read_text().splitlines()[1:]) - set(before.read_text().splitlines()[1:])
    assert added and all("rotary" in line for line in added)
    page = (folder_of(kept) / "README.md").read_text()
    assert all(word in page for word in (before.name, after.name, "`pairing`", kept.at, "Python", "No weights"))


def test_one_that_fails_otherwise_now_says_so(kept: CheckFailed) -> None:
    found = autoconvert.reproduce(folder_of(kept), stages=at_once())
    assert found.now is not None and found.now.blamed == "wrong" and not found.fails_as_before


def test_a_wrong_rule_fails_again_and_the_graph_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["autoconvert.passes.canonicalize"]
    monkeypatch.setattr(module, "TABLE", RuleTable((RULES[0], *RIGHT_RULES)))
    failure = failed(tiny(), tmp_path / "out", Stages())
    assert failure.blamed == f"rule {RULES[0].name}" and failure.at and failure.line
    folder = moved(failure, tmp_path)
    assert len(list((folder / "graph").iterdir())) == 1
    assert autoconvert.reproduce(folder).fails_as_before


def test_a_wrong_constant_fails_again_and_is_named(tmp_path: Path) -> None:
    stages = Stages(after_link=next(fault for fault in FILE_FAULTS if fault.name == "one bit").inject)
    failure = failed(tiny(), tmp_path / "out", stages)
    assert failure.folder is not None
    assert autoconvert.reproduce(failure.folder, stages=stages).fails_as_before


def test_a_fault_in_what_a_bundle_says_fails_again_with_the_model_s_tokenizer(tmp_path: Path) -> None:
    fault = TEXT_FAULTS[0]
    tokenizer = byte_level_tokenizer(
        prepends_start=fault.prepends_start, chat_template=CHAT_TEMPLATE if fault.chats else None
    )
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    stages = Stages(before_bundle=fault.inject)
    failure = failed(tmp_path / "model", tmp_path / "out", stages, context=32, prefill=(8,), formats=("litertlm",))
    folder = moved(failure, tmp_path)
    found = autoconvert.reproduce(folder, stages=stages)
    assert found.before.check == "check bundle" and found.fails_as_before


def test_what_depends_on_the_weights_asks_for_the_model(tmp_path: Path) -> None:
    # Only with the weights at hand: of the conversion, not of the attempt, and of both reproductions.
    calls = iter((True, False, True, True))
    stages = at_once(lambda: next(calls))
    model = saved(tmp_path / "model")
    failure = failed(model, tmp_path / "out", stages)
    assert failure.folder is not None and "with the model" in failure.hint
    assert "with random weights nothing fails" in (failure.folder / "README.md").read_text()
    assert autoconvert.reproduce(failure.folder, stages=stages).fails_as_before
    model.rename(tmp_path / "somewhere")
    with pytest.raises(InputError):
        autoconvert.reproduce(failure.folder)
    assert autoconvert.reproduce(failure.folder, tmp_path / "somewhere", stages=stages).fails_as_before


def test_a_module_that_nobody_else_can_build_is_asked_for_and_its_code_is_there(tmp_path: Path) -> None:
    module = Decoder()
    failure = failed(module, tmp_path / "out", at_once())
    folder = failure.folder
    assert folder is not None and f"autoconvert reproduce {folder} MODEL" in failure.hint
    assert "class Decoder" in (folder / "code" / "tests" / "models.py").read_text()
    assert "cannot be built anywhere else" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="a module in memory"):
        autoconvert.reproduce(folder)
    assert autoconvert.reproduce(folder, module, stages=at_once()).fails_as_before


def test_code_and_patterns_in_the_folder_run_only_where_they_are_trusted(tmp_path: Path) -> None:
    patterns = tmp_path / "blocks.py"
    patterns.write_text("from autoconvert.patterns.norms import PATTERNS as KNOWN\nfrom dataclasses import replace\n"
                        "PATTERNS = (replace(KNOWN[0], name='norm.mine'),)\n")  # fmt: skip
    failure = failed(tiny(), tmp_path / "out", at_once(), patterns=(patterns,))
    folder = moved(failure, tmp_path)
    patterns.unlink()
    assert "--trust-remote-code" in failure.hint
    with pytest.raises(InputError, match="runs Python code"):
        autoconvert.reproduce(folder, stages=at_once())
    assert autoconvert.reproduce(folder, stages=at_once(), trust_remote_code=True).fails_as_before


def test_somebody_s_folder_stays_and_one_of_ours_is_replaced(tmp_path: Path) -> None:
    theirs, first, second = (tmp_path / name for name in ("out-failure", "out-failure-2", "out-failure-3"))
    theirs.mkdir()
    assert _free_name(tmp_path / "out") == first
    first.write_text("theirs too")
    assert _free_name(tmp_path / "out") == second
    second.mkdir()
    (second / MANIFEST).write_text("{}")
    failure = failed(tiny(), tmp_path / "out", at_once())
    assert failure.folder == second and json.loads((second / MANIFEST).read_text())["format"]
    assert not any(theirs.iterdir()) and first.read_text() == "theirs too"
    assert sorted(tmp_path.iterdir()) == [theirs, first, second]


@pytest.mark.parametrize("written", ["a", Path("b/c"), Path(), Path("..")])
def test_the_folder_is_beside_where_the_output_would_have_gone(
    written: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x" / "y")
    target = Path(written).resolve()
    assert _free_name(Path(written)).resolve() == target.with_name(f"{target.name}-failure")


@pytest.mark.parametrize("fails", ["shutil.copyfile", "autoconvert.driver.keep_failure.write_failure"])
def test_a_disk_that_cannot_hold_the_folder_does_not_hide_the_failed_check(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tmp_path / "model")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(fails, full)
    failure = failed(model, tmp_path / "out", at_once())
    assert "it is wrong" in failure.message and failure.folder is None
    assert "could not be written" in failure.hint and "disk is full" in failure.hint
    assert list(tmp_path.iterdir()) == [model]


def out_of_time(_: object) -> None:
    raise keep_failure._OutOfTime


def test_an_attempt_is_given_up_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconvert.driver.keep_failure._Watch._end_in_time", out_of_time)
    failure = failed(saved(tmp_path / "model"), tmp_path / "out", at_once())
    assert failure.folder is not None
    assert "would have taken longer" in (failure.folder / "README.md").read_text()


def test_a_conversion_that_is_right_leaves_no_folder(tmp_path: Path) -> None:
    autoconvert.convert(tiny(), tmp_path / "out", **ONE_LAYER)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_the_command_says_that_nothing_fails_any_more(kept: CheckFailed) -> None:
    ended = CliRunner().invoke(app, [str(folder_of(kept))])
    assert (ended.exit_code, ended.stderr) == (0, ""), ended.stderr
    assert "no longer fails: every check passes. It was: check file, pass pairing, autoconvert.rotary" in ended.stdout


def test_the_command_ends_with_the_failed_check_s_code_where_it_fails_as_before(tmp_path: Path) -> None:
    """By a wrong number of a pattern, which the command runs from the folder."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    failure = failed(tiny(), tmp_path / "out", Stages(), patterns=(wrong,))
    words = [sys.executable, "-m", "autoconvert", "reproduce", str(moved(failure, tmp_path)), "--trust-remote-code"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 4, ended.stderr
    assert "fails as before: rewrite, pattern wrong" in ended.stdout


WRONG = '''"""An activation that is wrong for other sizes than its example's."""

import torch
from torch import Tensor

from autoconvert.pattern import Pattern


def block(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)


def wrong(x: Tensor) -> Tensor:
    return x * (0.5 * torch.tanh(0.5 * x) + (0.5 if x.shape[-1] == 6 else 0.6))


PATTERNS = (Pattern(name="wrong", block="activation", matches=block, becomes=wrong, example={"x": (1, 5, 6)}),)
'''


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b"{", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "fault": 3, "patterns": 1, "by_hand": []}'],
)
def test_a_folder_that_is_damaged_is_bad_input(damage: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no failed check has left this"):
        autoconvert.reproduce(tmp_path)
    (tmp_path / MANIFEST).write_bytes(damage)
    with pytest.raises(InputError):
        autoconvert.reproduce(tmp_path)


def test_the_folder_holds_no_tensor_of_the_model(kept: CheckFailed) -> None:
    looks = json.loads((folder_of(kept) / "model" / "weights.json").read_text())["tensors"]
    assert all(set(look) == {"shape", "dtype", "mean", "spread"} for look in looks.values())
    assert torch.tensor([look["spread"] for look in looks.values()]).isfinite().all()
