"""A dump: a snapshot for each pass that changed something, a manifest, and what stays from pass to pass."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoconvert.driver.compile import dump_signature
from autoconvert.dump.dump import dump_to
from autoconvert.dump.wrapping import WIDTH
from autoconvert.errors import InputError, Refused
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import run_names
from autoconvert.rewrite.pattern import Pattern
from tests.dump.dumped import Read, dump_of
from tests.models import CONTEXT, Decoder, merged, rewrite, signatures, tiny_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    yield dump_of(tiny_llama(num_hidden_layers=3), tmp_path_factory.mktemp("llama"))


def test_every_pass_is_listed_in_order_and_only_what_changed_has_files(llama: Read) -> None:
    passes = llama.manifest["passes"]
    signatures = ["prefill_4", "prefill_4 legalized", "decode", "decode legalized"]
    assert [each["name"] for each in passes] == ["trace", *run_names(PASSES), *signatures]
    assert [each["index"] for each in passes] == list(range(len(passes)))
    assert all(each["summary"].endswith(".") for each in passes)
    assert llama.manifest["refused"] is None
    assert llama.the_pass("fuse")["file"] == "05-fuse"
    assert llama.the_pass("hoist-projections")["file"] is None
    stems = [each["file"] for each in passes if each["file"]]
    files = {f"{stem}.{ending}" for stem in stems for ending in ("txt", "py", "graphml", "json")}
    overlays = {f"overlay-{figure}.json" for figure in ("bytes", "error", "multiply-adds")}
    others = {"dump.json", "tried.json", "constants.safetensors"}
    assert {path.name for path in llama.folder.iterdir()} == {*others, *files, *overlays}


def test_no_line_is_wider_than_a_screen(llama: Read) -> None:
    files = [*llama.folder.glob("*.txt"), *llama.folder.glob("*.py")]
    assert len(files) > 10
    assert [line for file in files for line in file.read_text().splitlines() if len(line) > WIDTH] == []


def test_what_a_pass_leaves_alone_keeps_its_name(llama: Read) -> None:
    before, after = llama.nodes("canonicalize"), llama.nodes("decode")
    name = "model_layers_1_self_attn_q_proj_linear"
    assert before[name]["namespace"] == after[name]["namespace"] == "model/layers/1/self_attn/q_proj"
    assert before[name]["label"] == after[name]["label"] == "linear"


def test_matches_name_the_nodes_before_and_after(llama: Read) -> None:
    before, after = llama.nodes("canonicalize"), llama.nodes("fuse")
    matches = llama.the_pass("fuse")["matches"]
    assert {match["block"] for match in matches} == {"norm", "rotary", "attention", "feed_forward"}
    assert len(matches) == 7 + 6 + 3 + 3
    for match in matches:
        assert match["node"] in after and match["node"] not in before
        assert set(match["replaced"]) <= before.keys() - after.keys()
        assert match["source"].startswith("patterns/")
    assert all(not each["matches"] for each in llama.manifest["passes"] if each["name"] != "fuse")


def test_a_block_belongs_to_the_module_that_has_its_weights(llama: Read) -> None:
    (node,) = [node for node in llama.nodes("fuse").values() if node["id"] == "model_layers_2_mlp_gated_feed_forward"]
    assert node["namespace"] == "model/layers/2/mlp"


def test_nodes_say_what_they_cost_and_come_from(llama: Read) -> None:
    linear = llama.attributes("decode", "model_layers_0_self_attn_k_proj_linear")
    assert (linear["multiply-adds"], linear["bytes"]) == (str(32 * 16), str(4 * 32 * 16))
    assert (linear["shape"], linear["dtype"]) == ("[1, 1, 16]", "f32")
    assert linear["source"].startswith("transformers/models/llama/modeling_llama.py:")
    attention = llama.attributes("decode", "model_layers_0_self_attn_cached_attention")
    assert (attention["block"], attention["pattern"]) == ("attention", "attention.shared")
    assert int(attention["multiply-adds"]) == 2 * 4 * 8 * CONTEXT
    assert float(attention["error"]) < 1e-6


def _falling(x: Tensor) -> Tensor:
    return torch.tanh(x) * torch.exp(-x)


def _divided(x: Tensor) -> Tensor:
    return torch.tanh(x) / torch.exp(x)


def test_what_a_pattern_from_outside_made_names_its_line(tmp_path: Path) -> None:
    pattern = Pattern("falling", "activation", _falling, _divided, {"x": (3, 5)})
    read = dump_of(Decoder(mix=lambda _, x: _falling(x)), tmp_path, (*PATTERNS, pattern))
    (made,) = [name for name, node in read.nodes("fuse").items() if node["label"] == "div"]
    line = f"tests/dump/test_dump.py:{_divided.__code__.co_firstlineno + 1}"
    assert read.attributes("fuse", made)["written"] == line
    assert f"by {line.rpartition('/')[2]}  [falling]" in (tmp_path / f"{read.the_pass('fuse')['file']}.txt").read_text()
    assert "torch.tanh(x) / torch.exp(x)" in json.dumps(read.manifest["sources"])


def test_sizes_are_symbols_until_the_signatures(llama: Read) -> None:
    assert llama.attributes("insert-kv-cache", "lm_head_linear")["shape"] == "[1, s, 97]"
    assert llama.attributes("prefill_4", "model_layers_0_mlp_gated_feed_forward")["shape"] == "[1, 4, 32]"


def test_the_lines_that_nodes_name_are_there(llama: Read) -> None:
    sources = llama.manifest["sources"]
    for name in ("trace", "decode"):
        for node in llama.nodes(name):
            file, _, line = llama.attributes(name, node).get("source", "").rpartition(":")
            if file:
                assert any(first <= int(line) <= first + text.count("\n") for first, text in sources[file])


def hides_by_token(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = decoder.heads(x)
    return merged((query @ key.transpose(2, 3)).softmax(-1) @ value)


def test_the_patterns_that_were_tried_on_nodes_are_told(llama: Read) -> None:
    tried = json.loads((llama.folder / "tried.json").read_text())
    nodes = llama.nodes("fuse")
    assert tried["graph"] == llama.the_pass("fuse")["file"]
    assert tried["endings"].keys() <= {node["label"] for node in nodes.values()}
    assert "rotary.half" in tried["endings"]["add"]
    assert tried["tries"]
    for each in tried["tries"]:
        assert 1 < each["matched"] <= each["of"]
        assert each["pattern"] in tried["endings"][nodes[each["node"]]["label"]]
        assert {each["node"], *each["covered"]} <= nodes.keys()


def test_a_refused_model_leaves_the_dump_up_to_there(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        dump_of(Decoder(attend=hides_by_token), tmp_path / "dump")
    dump = Read(tmp_path / "dump")
    last = dump.manifest["passes"][-1]["name"]
    assert last != "decode" and dump.nodes("trace")
    (check,) = dump.manifest["checks"]
    assert not check["passed"] and check["name"] == f"after {last}"
    assert str(Path(__file__).parents[2]) not in check["detail"] and "tests/models.py:" in check["detail"]
    refused = dump.manifest["refused"]
    (step,) = [each["name"] for each in dump.manifest["passes"] if each["file"] == refused["file"]]
    assert dump.attributes(step, refused["node"])["source"].rpartition("/")[2] in check["detail"]


def test_an_overlay_has_a_figure_of_the_nodes_of_each_graph(llama: Read) -> None:
    for figure in ("bytes", "multiply-adds"):
        graphs = json.loads((llama.folder / f"overlay-{figure}.json").read_text())
        for name in ("trace", "fuse", "decode"):
            known = {node: each["attrs"] for node, each in llama.nodes(name).items()}
            values = {
                node: float(attribute["value"])
                for node, attributes in known.items()
                for attribute in attributes
                if attribute["key"] == figure
            }
            results = graphs[llama.the_pass(name)["file"]]["results"]
            assert {node: result["value"] for node, result in results.items()} == values != {}


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(InputError, match="holds no dump"):
        dump_of(tiny_llama(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_signatures_that_are_withdrawn_leave_nothing(tmp_path: Path) -> None:
    program = rewrite(tiny_llama(num_hidden_layers=1))
    with dump_to(tmp_path, "tiny", {}, {}) as dump:
        dump.traced("whole text", CONTEXT, program)
        for lengths in ([2], [4]):
            dump.withdrawn()
            for name, part in signatures(program, lengths).items():
                dump_signature(dump, name, part)
    read = Read(tmp_path)
    steps = {each["name"]: each["file"] for each in read.manifest["passes"]}
    assert list(steps) == ["trace", "prefill_4", "prefill_4 legalized", "decode", "decode legalized"]
    assert {path.stem for path in tmp_path.glob("[0-9]*")} == set(steps.values())
    overlays = json.loads((tmp_path / "overlay-multiply-adds.json").read_text())
    assert set(overlays) <= set(steps.values())


def test_a_dump_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    for file in ("dump.json", "07-no-longer-there.txt", "index.html", "notes.txt"):
        (tmp_path / file).write_text("old")
    dump = dump_of(tiny_llama(num_hidden_layers=1), tmp_path)
    assert dump.manifest["format"] == 3
    assert not (tmp_path / "07-no-longer-there.txt").exists()
    # The page would show the older one.
    assert not (tmp_path / "index.html").exists()
    assert (tmp_path / "notes.txt").exists()


def test_names_differ_where_modules_do_not(tmp_path: Path) -> None:
    def thrice(decoder: Decoder, x: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(torch.tanh(x)))

    nodes = dump_of(Decoder(mix=thrice), tmp_path / "dump").nodes("trace")
    assert {"tanh", "tanh_1", "tanh_2"} <= nodes.keys()


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.dump.dumped import dump_of; "
        "from tests.models import tiny_llama; dump_of(tiny_llama(), Path(sys.argv[1]))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path / seed], env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    assert [run.wait() for run in runs] == [0, 0]
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / seed).iterdir()} for seed in ("1", "2"))
    assert first == second and len(first) > 20
    here = str(Path(__file__).parents[2]).encode()
    assert not any(here in content for content in first.values())
