"""The page of a conversion's own dump."""

import json
from pathlib import Path
from typing import Any

import pytest

import autoconvert
from autoconvert.inspect.dump import read_dump
from autoconvert.inspect.page import page_data
from tests.models import CONTEXT, tiny_llama


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page of a tiny Llama is drawn from."""
    folder: Path = tmp_path_factory.mktemp("real")
    autoconvert.convert(
        tiny_llama(), folder / "out", context=CONTEXT, prefill=(4,), formats=("tflite",), dump=folder / "dump"
    )
    found: dict[str, Any] = json.loads(json.dumps(page_data(read_dump(folder / "dump"))))
    return found


def nodes(data: dict[str, Any], stem: str) -> dict[str, list[Any]]:
    return {data["nodes"][number][0]: data["nodes"][number] for number in data["graphs"][stem]}


def test_every_block_is_found_with_the_region_that_it_replaced(data: dict[str, Any]) -> None:
    (step,) = [each for each in data["passes"] if each["matches"]]
    before, after = nodes(data, step["before"]), nodes(data, step["graph"])
    assert {match["block"] for match in step["matches"]} == {"norm", "rotary", "attention", "feed_forward"}
    for match in step["matches"]:
        assert match["node"] in after
        assert match["replaced"]
        assert set(match["replaced"]) <= set(before)


def test_every_line_that_a_node_or_a_pattern_names_is_in_the_page(data: dict[str, Any]) -> None:
    named = {node[4]["source"] for node in data["nodes"] if "source" in node[4]}
    named |= {match["source"] for step in data["passes"] for match in step["matches"]}
    assert any("modeling_llama" in place for place in named)
    for file, _, line in (place.rpartition(":") for place in named):
        pieces = data["sources"][file]
        assert any(first <= int(line) < first + len(text.split("\n")) for first, text in pieces), f"{file}:{line}"


def test_what_a_node_reads_is_in_its_graph(data: dict[str, Any]) -> None:
    for stem in data["graphs"]:
        graph = nodes(data, stem)
        assert all(source in graph for node in graph.values() for source, _ in node[3])


def test_the_checks_and_the_bytes_of_the_weights_are_there(data: dict[str, Any]) -> None:
    assert data["checks"]
    assert all(check["passed"] for check in data["checks"])
    assert {each["dtype"] for each in data["bytes"]} == {"int8", "float32"}
    of_decode = [each["name"] for each in data["passes"] if each["signature"] == "decode"]
    assert of_decode == ["decode", "decode legalized", "decode in the file"]


def test_operations_of_the_file_lead_to_nodes_and_lines(data: dict[str, Any]) -> None:
    (step,) = [each for each in data["passes"] if each["name"] == "decode in the file"]
    lowered, written = nodes(data, step["before"]), nodes(data, step["graph"])
    computed = {name: node for name, node in written.items() if node[1] not in ("input", "constant")}
    origins = {name: node[4]["origins"].split() for name, node in computed.items() if "origins" in node[4]}
    assert all(set(names) <= set(lowered) for names in origins.values())
    # What the converter adds for itself is little.
    assert len(origins) > 0.9 * len(computed)
    for name, node in computed.items():
        if name in origins:
            assert node[4].get("source") == lowered[origins[name][0]][4].get("source")
    (logits,) = [node for node in computed.values() if node[4].get("result") == "logits"]
    assert logits[2] == "lm_head" and "modeling_llama.py" in logits[4]["source"]
    assert {node[4].get("pattern") for node in computed.values()} >= {"rms_norm", "rotary.half"}


def test_the_target_s_words_stand_between_a_signature_and_its_file(data: dict[str, Any]) -> None:
    steps = {each["name"]: each for each in data["passes"]}
    for name in ("prefill_4", "decode"):
        assert steps[f"{name} legalized"]["before"] == steps[name]["graph"]
        assert steps[f"{name} in the file"]["before"] == steps[f"{name} legalized"]["graph"]
    assert "cached_attention" in steps["decode"]["operations"]
    assert "cached_attention" not in steps["decode legalized"]["operations"]
    legal = nodes(data, steps["decode legalized"]["graph"])
    of_attention = [n for n in legal.values() if "model_layers_0_self_attn_cached_attention" in n[4].get("origins", "")]
    assert {node[1] for node in of_attention} >= {"batch_matmul", "softmax", "dynamic_update_slice"}
    # No name is by chance that of another node.
    computed = {name for name, node in nodes(data, steps["decode in the file"]["graph"]).items() if node[3]}
    assert computed.isdisjoint(legal)
    assert steps["decode in the file"]["operations"]["FULLY_CONNECTED"] > 0
