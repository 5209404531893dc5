"""The same file in another interpreter: TensorFlow's, where the extra `tensorflow` is installed."""

from pathlib import Path

import numpy as np
import pytest
import torch

import autoconvert
from autoconvert.check.parity import random_tokens
from autoconvert.runtime.interpreter import Runner, open_file
from tests.plain_llama import PlainLlama

tensorflow = pytest.importorskip("tensorflow", reason="needs the extra `tensorflow`")


@pytest.mark.parametrize("quantize", ["none", "int8", "fp16"])
def test_tensorflows_interpreter_gives_the_same_numbers(quantize: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = autoconvert.convert(
        PlainLlama().eval(), tmp_path, quantize=quantize, context=24, prefill=(6,), formats=("tflite",)
    )
    tokens = random_tokens(20, 61)
    other = Runner(tensorflow.lite.Interpreter(str(bundle.files["tflite"])), 24)
    with open_file(bundle.files["tflite"], 24) as ours:
        for runner in (ours, other):
            runner.prefill(tokens[:15])
        for token in tokens[15:]:
            expected, actual = ours.decode(token), other.decode(token)
            tolerance = 2e-2 * float(expected.std()) if quantize == "int8" else 1e-4
            np.testing.assert_allclose(actual, expected, atol=tolerance)
