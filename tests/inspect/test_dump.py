"""Reading a dump: what there is, and what is said where it is damaged."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from autoconvert.errors import InputError
from autoconvert.inspect.dump import read_dump
from tests.inspect.dumps import NORM, write_dump


def test_a_dump_is_read_with_the_graph_after_each_pass_that_changed_something(tmp_path: Path) -> None:
    dump = read_dump(write_dump(tmp_path, layers=2))
    signatures = ["03-prefill_16", "04-decode", "05-decode-in-the-file"]
    assert [step.file for step in dump.steps] == ["00-trace", "01-fuse", None, *signatures]
    assert {stem: len(nodes) for stem, nodes in dump.graphs.items()} == {
        "00-trace": 164,
        "01-fuse": 154,
        "03-prefill_16": 154,
        "04-decode": 154,
        "05-decode-in-the-file": 3,
    }
    node = next(n for n in dump.graphs["01-fuse"] if n.operation == "rms_norm")
    assert node.inputs == (("model_embedding", "0"), ("model_layers_0_norm_weight", "0"))
    assert (node.module, node.types) == ("model/layers/0/norm", ("f32[1, s, 8]",))
    assert dump.steps[1].matches[1].replaced == tuple(f"model_layers_1_norm_{part}" for part in NORM)


def test_a_folder_without_a_dump_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no dump"):
        read_dump(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 1}, "has the format 1, this version of autoconvert reads 3"),
        ({"format": None}, "has the format None"),
        ({"passes": 3}, "dump.json is damaged"),
        ({"passes": [{"name": "trace"}]}, "dump.json is damaged: 'summary' is missing"),
        ({"bytes": [{"module": "m", "dtype": "int8", "bytes": "many"}]}, "dump.json is damaged: .*many"),
        ({"sources": {"a.py": [[1]]}}, "dump.json is damaged"),
        ({"sources": []}, "dump.json is damaged"),
    ],
)
def test_a_manifest_that_is_wrong_is_said_to_be(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_dump(write_dump(tmp_path, layers=1, **changes))


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2', '"text"', "\xff"])
def test_damaged_json_is_said_to_be(tmp_path: Path, text: str) -> None:
    folder = write_dump(tmp_path, layers=1)
    (folder / "dump.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"dump\.json is damaged"):
        read_dump(folder)


GRAPHS = ("{}", '{"graphs": []}', '{"graphs": [{"nodes": [{"id": "a"}]}]}', "{")
TRIES = ("[]", '{"graph": "01-fuse"}', '{"graph": "", "endings": {}, "tries": [{}]}', "{")


@pytest.mark.parametrize(
    ("file", "content"), [*(("01-fuse.json", each) for each in GRAPHS), *(("tried.json", each) for each in TRIES)]
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: str) -> None:
    folder = write_dump(tmp_path, layers=1)
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{re.escape(file)} is damaged"):
        read_dump(folder)


def test_a_graph_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_dump(tmp_path, layers=1)
    (folder / "04-decode.json").unlink()
    with pytest.raises(InputError, match=r"incomplete: .*04-decode\.json is missing"):
        read_dump(folder)


def test_no_file_outside_the_dump_is_read(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", layers=1)
    (tmp_path / "elsewhere.json").write_text((folder / "00-trace.json").read_text("utf-8"), encoding="utf-8")
    manifest = json.loads((folder / "dump.json").read_text("utf-8"))
    manifest["passes"][0]["file"] = "../elsewhere"
    (folder / "dump.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="not the name of a file"):
        read_dump(folder)
