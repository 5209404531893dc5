"""What a conversion adds to a dump: how weights are stored, what was checked, where it failed."""

from pathlib import Path

import pytest

from autoconvert import ops
from autoconvert.driver.cache import FOLDER_VARIABLE
from autoconvert.driver.compile import Stages
from autoconvert.driver.convert import convert
from autoconvert.errors import CheckFailed
from autoconvert.ir.editing import finish
from autoconvert.ir.program import Program
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Pass
from tests.dump.dumped import Read
from tests.models import tiny_llama


def test_a_dump_says_how_weights_are_stored_and_what_was_checked(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    bundle = convert(tiny_llama(), tmp_path, context=32, prefill=(4,), formats=("tflite",), dump=folder)
    read = Read(folder)
    manifest = read.manifest
    assert manifest["context"] == 32 and manifest["way"] == "whole text"
    assert [check["name"] for check in manifest["checks"]] == [check.name for check in bundle.report.checks]
    assert all(check["passed"] for check in manifest["checks"])
    stored = {(row["module"], row["dtype"]): row["bytes"] for row in manifest["bytes"]}
    assert stored["model.layers.0.self_attn.k_proj", "int8"] == 32 * 16
    assert sum(stored.values()) == sum(bundle.report.bytes_by_dtype.values())
    assert {each["name"] for each in manifest["passes"]} >= {"trace", "fuse", "prefill_4", "decode"}
    nodes = read.nodes("decode in the file")
    computed = {
        node["label"]: read.attributes("decode in the file", name).get("computed by") for name, node in nodes.items()
    }
    assert str(computed["FULLY_CONNECTED"]).startswith("XNNPACK ")
    assert computed["EMBEDDING_LOOKUP"] == "kernel of its own"


def test_a_dump_is_there_where_a_check_fails(tmp_path: Path) -> None:
    def off(program: Program) -> Program:
        for node in program.graph.graph.find_nodes(op="call_function", target=ops.rms_norm):
            node.update_arg(2, 0.5)
        return program.with_graph(finish(program.graph))

    folder = tmp_path / "dump"
    stages = Stages(passes=(*PASSES, Pass("fault", "A fault.", lambda program, _: off(program))))
    with pytest.raises(CheckFailed):
        convert(tiny_llama(), tmp_path / "out", context=32, formats=("tflite",), dump=folder, stages=stages)
    dump = Read(folder)
    assert dump.manifest["passes"][-1]["name"] == "decode in the file"
    assert dump.the_pass("fault")["file"]
    assert [check["passed"] for check in dump.manifest["checks"]] == [True, True, False]
    assert {path.name for path in tmp_path.iterdir()} == {"dump", "out-failure"}


def test_what_is_in_the_cache_is_compiled_anew_for_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    for folder in (None, tmp_path / "dump"):
        bundle = convert("demo", tmp_path / "out", context=64, prefill=(16,), formats=("tflite",), dump=folder)
    assert "reuse" not in [stage.name for stage in bundle.report.stages]
    assert Read(tmp_path / "dump").nodes("decode")
    bundle = convert("demo", tmp_path / "out", context=64, prefill=(16,), formats=("tflite",))
    assert "reuse" in [stage.name for stage in bundle.report.stages]
