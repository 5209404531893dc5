"""The command line as a person types it."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
from transformers import AutoModelForCausalLM, XLNetConfig
from typer.testing import CliRunner, Result

from autoconvert.cli import COMMANDS
from autoconvert.cli.asked import asked
from autoconvert.cli.convert import Verify
from autoconvert.cli.convert import app as convert_app
from autoconvert.driver.settings import Verify as VerifySetting
from autoconvert.errors import AutoconvertError, BrokenPass, CheckFailed, InputError, MachineError, Refused
from autoconvert.quantization.choices import SUMMARIES
from autoconvert.quantization.recipes import RECIPES
from autoconvert.runtime.generate import generate
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, byte_level_tokenizer, tiny_llama

COMMAND = [sys.executable, "-m", "autoconvert"]
STAGES = [
    "read model",
    "trace",
    "rewrite",
    "lower",
    "link",
    "check constants",
    "check file",
    "grade",
    "bundle",
    "check bundle",
]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    level = logging.root.manager.disable
    yield
    logging.disable(level)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama and its tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE)
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def work(model: Path) -> Path:
    folder = model.parent / "work"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def converted(work: Path) -> subprocess.CompletedProcess[str]:
    """`autoconvert ../tiny`, typed in `work`."""
    words = [*COMMAND, "../tiny", "-v", "--format", "litertlm,tflite"]
    return subprocess.run(words, cwd=work, capture_output=True, text=True, timeout=300)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(convert_app, [str(word) for word in words], prog_name="autoconvert")


def test_a_conversion_prints_a_line_a_stage_and_no_noise(
    converted: subprocess.CompletedProcess[str],
) -> None:
    assert converted.stderr == ""
    assert converted.returncode == 0
    lines = converted.stdout.split("\n\n")[0].splitlines()
    found = [re.fullmatch(r"(\w+(?: \w+)?) +\d+\.\d s  (.+)", line) for line in lines]
    assert [match and match[1] for match in found] == STAGES


def test_the_summary_says_what_was_written_and_what_to_do_next(
    converted: subprocess.CompletedProcess[str], work: Path
) -> None:
    folder = work / "tiny"
    assert {path.name for path in folder.iterdir()} == {"model.litertlm", "model.tflite", "report.json"}
    size = (folder / "model.litertlm").stat().st_size
    assert f"tiny/model.litertlm  {size / 1e3:.1f} kB\n" in converted.stdout
    assert "2 layers with a cache, 5 norm, 4 rotary, 2 attention, 2 feed-forward" in converted.stdout
    assert "Next: autoconvert run tiny/model.litertlm --prompt" in converted.stdout
    assert "2  attention.native" in converted.stdout
    assert "decode: input_pos, mask, tokens, 4 caches → logits, 4 caches" in converted.stdout


def test_the_report_holds_settings_times_checks_and_sizes(
    converted: subprocess.CompletedProcess[str], work: Path
) -> None:
    folder = work / "tiny"
    report = json.loads((folder / "report.json").read_text())
    assert report["model"] == "tiny"
    assert report["settings"] == {
        "context": 96,
        "prefill": [],
        "why_fixed": "",
        "chose_prefill": False,
        "chose_context": False,
        "quantize": "int8",
        "formats": ["litertlm", "tflite"],
        "verify": "quick",
    }
    assert [stage["name"] for stage in report["stages"]] == STAGES
    assert len(report["checks"]) == 4
    assert all(check["passed"] for check in report["checks"])
    assert report["files"]["litertlm"] == (folder / "model.litertlm").stat().st_size
    assert sum(report["bytes_by_dtype"].values()) < report["files"]["tflite"]
    assert report["peak_memory"] > 100e6
    assert report["versions"]["torch"] == version("torch")


def test_run_streams_what_the_bundle_says(converted: subprocess.CompletedProcess[str], work: Path) -> None:
    bundle = work / "tiny" / "model.litertlm"
    words = ["run", str(bundle), "--prompt", "The cat sat", "--max-tokens", "6"]
    ran = subprocess.run([*COMMAND, *words], capture_output=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.decode() == generate(bundle, "The cat sat", max_tokens=6) + "\n"
    assert len(ran.stdout) > 6


def test_run_needs_a_bundle(tmp_path: Path) -> None:
    result = CliRunner().invoke(COMMANDS["run"], [str(tmp_path / "absent.litertlm"), "--prompt", "x"])
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert "hint: Give the path of a .litertlm file." in result.stderr


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_the_folder_as_it_was(
    asked: signal.Signals, model: Path, tmp_path: Path
) -> None:
    output, scratch = tmp_path / "out", tmp_path / "scratch"
    output.mkdir()
    scratch.mkdir()
    (output / "model.litertlm").write_bytes(b"from before")
    process = subprocess.Popen(
        [*COMMAND, str(model), "-o", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        # A test run in the background may ignore what it is sent, and its children with it.
        preexec_fn=lambda: signal.signal(asked, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert any(line.startswith("rewrite") for line in process.stdout)
    assert len(list(output.iterdir())) == 2
    process.send_signal(asked)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == "interrupted: everything unfinished was removed\n"
    assert list(output.iterdir()) == [output / "model.litertlm"]
    assert (output / "model.litertlm").read_bytes() == b"from before"
    assert list(scratch.iterdir()) == []


def test_a_full_disk_is_said_so(model: Path, tmp_path: Path) -> None:
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=200k none "$0"'
    try:
        subprocess.run([*private, "sh", "-c", mount, str(tmp_path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not let a user mount a small disk")
    convert = f'{mount} && "$@"; code=$?; ls -A "$0"; exit $code'
    words = [*COMMAND, str(model), "-o", str(tmp_path / "out"), "--verify", "off"]
    ran = subprocess.run(
        [*private, "sh", "-c", convert, str(tmp_path), *words], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 5
    # Nothing was begun that could not be finished.
    assert ran.stdout.splitlines()[-1].split()[:2] == ["read", "model"]
    assert "Converting needs about" in ran.stderr and "of disk" in ran.stderr
    assert "hint: Free some space" in ran.stderr


def test_a_plan_says_what_a_conversion_finds_and_needs(model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(COMMANDS["plan"], [str(model), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "found" in result.stdout and "2 attention" in result.stdout
    assert "96 positions, a text of any length at a time" in result.stdout
    assert not (tmp_path / "out").exists()


def test_a_plan_of_what_would_be_refused_is_refused(tmp_path: Path) -> None:
    config = XLNetConfig(vocab_size=97, d_model=32, n_layer=1, n_head=2, d_inner=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    result = CliRunner().invoke(COMMANDS["plan"], [str(tmp_path / "model"), "--format", "tflite"])
    assert result.exit_code == 3
    assert "checkpoint" in result.stdout and "found" not in result.stdout
    assert "error: " in result.stderr


def test_a_model_is_asked_for_again_with_what_it_takes() -> None:
    words = asked("./my model", revision="v2", trust_remote_code=True, patterns=[Path("blocks.py")])
    assert words == "'./my model' --revision v2 --trust-remote-code --patterns blocks.py"
    assert asked("demo") == "demo"


def test_help_teaches_without_importing_torch() -> None:
    code = (
        "import sys\n"
        "from autoconvert.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    for text in ("autoconvert demo", "Exit codes", "130  interrupted", "--prefill", "Default: 4096"):
        assert " ".join(text.split()) in " ".join(ran.stdout.split())
    assert all(f"autoconvert {name} --help" in ran.stdout for name in COMMANDS)


def test_the_version_is_the_package_s() -> None:
    assert invoke("--version").output == f"autoconvert {version('autoconvert')}\n"


def test_the_choices_offered_are_the_ones_that_exist() -> None:
    assert set(SUMMARIES) == set(RECIPES)
    assert set(get_args(Verify)) == set(get_args(VerifySetting))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--contxt", "5"], "No such option: --contxt"),
        (["demo", "extra"], "unexpected extra argument"),
        (["demo", "--quantize", "int3"], "'int3' is none of int8, int4, fp16, none, and no recipe's .json file."),
        (["demo", "--target-size", "small"], "'small' is no size like 700MB."),
        (["demo", "--prefill", "128;16"], "'128;16' is not a list of numbers like 128,16."),
        (["demo", "--format", "onnx"], "'onnx' is none of litertlm, tflite."),
        (["demo", "--context", "many"], "Invalid value for '--context'"),
        (["demo", "--stop-after", "fuse"], "leaves nothing but its dump: say where with --dump DIR."),
    ],
)
def test_wrong_usage_is_answered_by_what_is_wrong(words: Sequence[str], said: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Usage: autoconvert" in result.stderr


def test_it_stops_after_a_pass_with_a_dump_and_nothing_else(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(model, "--stop-after", "fuse", "--dump", "dump", "--context", 32, "--prefill", 4)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "stopped after fuse: its dump is in dump, and nothing else was written\n" in result.stdout
    assert "autoconvert inspect dump\n" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]
    assert json.loads((tmp_path / "dump" / "dump.json").read_text())["passes"][-1]["name"] == "fuse"


def test_an_unknown_pass_to_stop_after_is_bad_usage_and_lists_the_passes(model: Path, tmp_path: Path) -> None:
    result = invoke(model, "--stop-after", "no-such-pass", "--dump", tmp_path / "dump")
    assert result.exit_code == 2
    assert "There is no pass or signature no-such-pass to stop after." in result.stderr
    assert "canonicalize, loops-to-pairs, dense-rows, canonicalize-2, fuse, " in result.stderr
    assert not (tmp_path / "dump").exists()


def test_an_unknown_folder_is_bad_input(tmp_path: Path) -> None:
    result = invoke(tmp_path / "absent")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'absent'}: no such folder\nhint: ")


def test_a_folder_without_a_configuration_is_bad_input(tmp_path: Path) -> None:
    result = invoke(tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "config.json" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--context", "97"], "larger than the 96 that the model was made for"),
        (["--prefill", "97"], "A prefill of 97 positions does not fit"),
        (["--prefill", "0"], "Prefill lengths are positive numbers."),
    ],
)
def test_lengths_that_the_model_does_not_have_are_bad_input(
    words: Sequence[str], said: str, model: Path, tmp_path: Path
) -> None:
    result = invoke(model, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", [".", "below"])
def test_an_output_folder_that_cannot_be_made_is_the_machine_s_failure(below: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = invoke(model, "-o", tmp_path / "file" / below)
    assert result.exit_code == 5
    assert f"Cannot write to {tmp_path / 'file' / below}" in result.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("kind", [InputError, Refused, CheckFailed, MachineError])
@pytest.mark.parametrize("verbose", [True, False])
def test_each_kind_of_failure_has_its_exit_code(
    kind: type[AutoconvertError], verbose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = invoke_failing(kind("what [happened]", hint="what to do"), monkeypatch, verbose)
    assert result.exit_code == kind.exit_code
    assert result.stderr.endswith("error: what [happened]\nhint: what to do\n")
    assert ("Traceback" in result.stderr) == verbose


def test_a_bug_asks_to_be_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke_failing(ZeroDivisionError("by zero"), monkeypatch)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "error: ZeroDivisionError: by zero" in result.stderr
    assert f"torch {version('torch')}" in result.stderr


def test_a_broken_pass_asks_to_be_reported_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke_failing(BrokenPass("After fuse: it is broken.", hint="Please report it."), monkeypatch)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert "error: After fuse: it is broken.\nhint: Please report it. Say also: Python " in result.stderr
    assert f"torch {version('torch')}" in result.stderr


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(28, "No space left on device", "there"), "error: there: No space left on device"),
        (PermissionError(13, "Permission denied", "there"), "error: there: Permission denied"),
        (MemoryError(), "error: Out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "error: Out of memory."),
    ],
)
def test_what_the_machine_refuses_is_no_bug(failure: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke_failing(failure, monkeypatch)
    assert result.exit_code == 5
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def invoke_failing(error: Exception, monkeypatch: pytest.MonkeyPatch, verbose: bool = False) -> Result:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sys.modules["autoconvert.driver.convert"], "convert", fail)
    return invoke("demo", *(["-v"] if verbose else []))


def test_the_function_convert_is_not_hidden_by_its_module() -> None:
    code = "import autoconvert.driver.convert, autoconvert; assert autoconvert.convert.__name__ == 'convert'"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
