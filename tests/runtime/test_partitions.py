"""Partitions: what the runtime tells of its delegate, for every subgraph of a file."""

from pathlib import Path

import pytest

from autoconvert.lowering.flatbuffer import mapped_model, operator_name, signatures_by_subgraph
from autoconvert.lowering.link import link
from autoconvert.quantization.recipes import RECIPES
from autoconvert.runtime.partitions import in_partitions, in_words, partitions_of
from tests.lowering import weightless


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "model.tflite"
    link(weightless.lowered(), weightless.weights(), weightless.checkpoint(), RECIPES["int8"], path)
    return path


def test_every_operation_of_a_signature_is_in_a_partition_or_has_a_kernel(file: Path) -> None:
    """XNNPACK multiplies, and looks nothing up; a later version of the runtime may tell in another way."""
    before, model = file.read_bytes(), mapped_model(file)
    called = list(signatures_by_subgraph(model))
    found = partitions_of(file, called)
    assert file.read_bytes() == before
    for index, partitions in found.items():
        operators = model.subgraphs[index].operators
        kinds = {operator_name(model, each): number for each, number in zip(operators, partitions, strict=True)}
        assert kinds["FULLY_CONNECTED"] is not None
        assert kinds["EMBEDDING_LOOKUP"] is None
    assert list(found) == called and called[1] > 0


def test_a_partition_is_what_lies_between_what_the_delegate_reads_and_gives() -> None:
    """0 → a → 1 → b → 2 → c → 3: b has a kernel of its own."""
    nodes = [
        {"name": "ADD", "inputs": [0, 9], "outputs": [1]},
        {"name": "CUSTOM", "inputs": [1], "outputs": [2]},
        {"name": "MUL", "inputs": [2, 1], "outputs": [3]},
        {"name": "SUB", "inputs": [3], "outputs": [4]},
        {"name": "DELEGATE", "inputs": [0, 9], "outputs": [1]},
        {"name": "DELEGATE", "inputs": [2, 1], "outputs": [4]},
    ]
    found = in_partitions(4, nodes)
    assert found == [0, None, 1, 1]
    assert in_words([found]) == "XNNPACK computes 3 of 4 operations, in 2 pieces"


def test_of_what_cannot_be_opened_nothing_is_told(tmp_path: Path, file: Path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(file.read_bytes()[:2000])
    assert partitions_of(broken, [0]) == {}
