"""The same file in another interpreter: TensorFlow's, where the extra `tensorflow` is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autoconvert
from autoconvert.check.parity import random_tokens
from autoconvert.runtime.loaded_file import SignatureTypes, tensor_types
from autoconvert.runtime.runner import Runner, open_file
from tests.plain_llama import PlainLlama

tensorflow = pytest.importorskip("tensorflow", reason="needs the extra `tensorflow`")


def runner_of(interpreter: Any) -> Runner:
    """A runner whose states are kept here, by the interpreter's signature runners."""
    signatures = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    types = {
        name: SignatureTypes(
            tensor_types(runner.get_input_details(), {}), tensor_types(runner.get_output_details(), {})
        )
        for name, runner in signatures.items()
    }
    states: dict[str, Any] = {}

    def run(name: str, inputs: Mapping[str, Any], history: int) -> Mapping[str, Any]:
        taken = types[name].inputs
        zeros = {state: np.zeros(taken[state].shape, taken[state].dtype) for state in taken.keys() - inputs.keys()}
        given = {port: value.astype(taken[port].dtype) for port, value in inputs.items()}
        outputs = signatures[name](**given, **(zeros | states))
        states.update({port: value for port, value in outputs.items() if port in taken})
        return {port: value for port, value in outputs.items() if port not in taken}

    return Runner(types, run, states.clear)


@pytest.mark.parametrize("quantize", ["none", "int8", "fp16"])
def test_tensorflows_interpreter_gives_the_same_numbers(quantize: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = autoconvert.convert(
        PlainLlama().eval(), tmp_path, quantize=quantize, context=24, prefill=(6,), formats=("tflite",)
    )
    tokens = random_tokens(20, 61)
    other = runner_of(tensorflow.lite.Interpreter(str(bundle.files["tflite"])))
    with open_file(bundle.files["tflite"]) as ours:
        for runner in (ours, other):
            runner.prefill(tokens[:15])
        for token in tokens[15:]:
            expected, actual = ours.decode(token), other.decode(token)
            tolerance = 2e-2 * float(expected.std()) if quantize == "int8" else 1e-4
            np.testing.assert_allclose(actual, expected, atol=tolerance)
