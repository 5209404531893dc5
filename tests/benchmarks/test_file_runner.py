"""The runner of the matrix on a real file: the model's logits, decode's work, and files it must not take."""

from pathlib import Path

import pytest
from file_runner import ContractBroken, FileRunner
from multiply_adds import model_of, products
from parity import PREFILL_LENGTH, TEXT_LENGTH, compare
from tiny_models import build, config_of, logits_of, sample_tokens

import autoconvert
from autoconvert.lowering import flatbuffer

CONTEXT = 64


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build(config_of("llama"))
    folder = tmp_path_factory.mktemp("llama")
    options = {"quantize": "none", "context": CONTEXT, "prefill": [PREFILL_LENGTH], "formats": ("tflite",)}
    return autoconvert.convert(model, folder, **options, verify="off").files["tflite"]  # type: ignore[arg-type]


def test_a_converted_file_says_what_the_model_says(file: Path) -> None:
    config = config_of("llama")
    tokens = sample_tokens(config, TEXT_LENGTH)
    assert compare(FileRunner(file), tokens, logits_of(build(config), tokens)).is_right


def test_a_file_of_open_lengths_is_run_at_many(tmp_path: Path) -> None:
    config = config_of("llama")
    model, tokens = build(config), sample_tokens(config, TEXT_LENGTH)
    made = autoconvert.convert(model, tmp_path, quantize="none", context=CONTEXT, formats=("tflite",), verify="off")
    runner = FileRunner(made.files["tflite"])
    assert runner.is_open and compare(runner, tokens, logits_of(model, tokens)).is_right


def test_decode_s_work_is_its_matrices_and_attention(file: Path) -> None:
    config = config_of("llama")
    hidden, heads, groups, width = 64, 4, 2, 16
    matrices = 2 * heads * width * hidden + 2 * groups * width * hidden + 3 * hidden * config.intermediate_size
    attention = 2 * heads * width * CONTEXT
    counted = sum(product.multiply_adds for product in products(model_of(file.read_bytes()), "decode"))
    assert counted == config.num_hidden_layers * (matrices + attention) + hidden * config.vocab_size


@pytest.mark.parametrize(("old", "new"), [(b"input_pos", b"positions_of"), (b"decode", b"step")])
def test_a_file_that_breaks_the_contract_is_not_run(file: Path, tmp_path: Path, old: bytes, new: bytes) -> None:
    model = flatbuffer.read_model(file.read_bytes())
    for signature in model.signatureDefs:
        signature.signatureKey = new if signature.signatureKey == old else signature.signatureKey
        for entry in signature.inputs:
            entry.name = new if entry.name == old else entry.name
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(flatbuffer.write_model(model))
    with pytest.raises(ContractBroken):
        FileRunner(broken)
