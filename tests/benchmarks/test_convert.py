"""The benchmark reports what a converter really did, and says so when it failed."""

import json
import sys
from io import StringIO
from pathlib import Path

import checkpoints
import convert
import pytest
from convert import Conversion, ConversionFailed, Converter, Floor, Stage
from decode import Speed, median
from measure import Cost
from rich.console import Console
from rich.table import Table

TINY = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}


def converter(program: str, output: Path) -> Converter:
    command = (sys.executable, "-c", program, str(output))
    return Converter("typer", Path(sys.executable), command, output)


def conversion(name: str, seconds: float, gigabytes: float) -> Conversion:
    cost = Cost(0, seconds, seconds, int(gigabytes * 10**9))
    return Conversion(name, "1.0", cost, Path("model.litertlm"), 10**9, ())


def shown(table: Table) -> str:
    console = Console(width=200, file=StringIO())
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_conversion_is_measured_with_its_bundle_and_stages(tmp_path: Path) -> None:
    program = (
        "import json, pathlib, sys\n"
        "output = pathlib.Path(sys.argv[1])\n"
        "(output / 'model.litertlm').write_bytes(bytes(1234))\n"
        "report = {'stages': [{'name': 'trace', 'seconds': 2}], 'more': 1}\n"
        "(output / 'report.json').write_text(json.dumps(report))\n"
    )
    run = convert.convert(converter(program, tmp_path / "out"))
    assert run.bundle_bytes == 1234
    assert run.stages == (Stage("trace", 2.0),)
    assert run.cost.peak_bytes > 0


def test_a_bundle_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "model.litertlm").write_bytes(b"old")
    with pytest.raises(ConversionFailed, match="exit code 0, 0 bundles"):
        convert.convert(converter("pass", tmp_path))


def test_a_failed_conversion_tells_how_its_output_ended(tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match=r"exit code 3.*\n.*no room"):
        convert.convert(converter("import sys; print('no room'); sys.exit(3)", tmp_path))


def test_a_missing_converter_is_named(tmp_path: Path) -> None:
    missing = Converter("typer", tmp_path / "python", ("nothing",), tmp_path)
    with pytest.raises(ConversionFailed, match="typer cannot be run"):
        convert.convert(missing)


@pytest.mark.parametrize("text", [None, "{}", '{"stages": []}'])
def test_a_report_without_stages_is_no_error(text: str | None, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    if text is not None:
        report.write_text(text)
    assert convert.read_stages(report) == ()


def test_ratios_are_the_peer_s_over_ours() -> None:
    runs = [conversion("autoconvert", 20, 1), conversion("litert-torch", 70, 9)]
    text = shown(convert.cost_table(runs, Floor(1.5, 0.5)))
    assert "3.50 x" in text
    assert "9.00 x" in text
    assert "1.5 + 0.5" in text


def test_a_single_conversion_has_no_ratio() -> None:
    text = shown(convert.cost_table([conversion("autoconvert", 20, 1)], Floor(1, 1)))
    assert "autoconvert 1.0" in text
    assert " x" not in text


def test_stages_add_up_to_the_wall_time() -> None:
    text = shown(convert.stage_table([Stage("trace", 4.0), Stage("link", 10.0)], 20.0))
    assert "6.0" in text.splitlines()[-2]


def test_the_record_is_json_and_holds_every_run_of_the_bundle() -> None:
    speeds = [Speed(100.0, 10.0, 1.0), Speed(300.0, 30.0, 3.0), Speed(200.0, 12.0, 1.5)]
    runs = [conversion("autoconvert", 20, 1)]
    figures = json.loads(json.dumps(convert.record("tiny", 2, runs, Floor(1, 1), [speeds])))
    ours = figures["conversions"][0]
    assert [taken["decode"] for taken in ours["speeds"]] == [10.0, 30.0, 12.0]
    assert ours["median_speed"] == {"prefill": 200.0, "decode": 12.0, "load_seconds": 1.5}
    assert ours["cost"]["wall_seconds"] == 20
    assert median(speeds).decode == 12.0


def test_a_checkpoint_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoints.SHAPES, "tiny", TINY)
    made = convert.make_checkpoint("tiny", 1, tmp_path)
    written = (made / "model.safetensors").stat().st_mtime_ns
    assert convert.make_checkpoint("tiny", 1, tmp_path) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == written
    assert convert.make_checkpoint("tiny", None, tmp_path) != made
