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
    assert [each["name"] for each in data["passes"] if each["signature"]] == ["prefill_4", "decode"]
