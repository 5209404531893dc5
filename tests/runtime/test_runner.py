"""What a runner gives the signatures of a file, each input as the signature has its type."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from autoconvert.errors import InputError
from autoconvert.runtime.loaded_file import SignatureTypes, TensorType
from autoconvert.runtime.runner import Runner

CONTEXT = 8


def types(mask: type) -> dict[str, SignatureTypes]:
    def signature(length: int, outputs: Mapping[str, TensorType]) -> SignatureTypes:
        inputs = {
            "tokens": TensorType((1, length), np.dtype(np.int32)),
            "input_pos": TensorType((length,), np.dtype(np.int32)),
            "mask": TensorType((1, 1, length, CONTEXT), np.dtype(mask)),
            "param_tensor": TensorType((1, 1, 1, 7), np.dtype(np.int32)),
        }
        return SignatureTypes(inputs, outputs)

    logits = {"logits": TensorType((1, 1, 5), np.dtype(np.float32))}
    return {"prefill_4": signature(4, {}), "decode": signature(1, logits), "verify": signature(3, logits)}


def calls_of(mask: type) -> list[tuple[str, Mapping[str, Any]]]:
    """A text of two tokens in a chunk and one that is decoded."""
    calls: list[tuple[str, Mapping[str, Any]]] = []

    def run(signature: str, inputs: Mapping[str, Any], history: int) -> Mapping[str, Any]:
        calls.append((signature, inputs))
        return {"logits": np.zeros((1, 1, 5), np.float32)}

    runner = Runner(types(mask), run, lambda: None)
    assert runner.prefill_lengths == [4]
    runner.logits_at([1, 2, 3], 2)
    return calls


def test_a_mask_of_truths_is_true_where_a_token_is_seen() -> None:
    numbers, truths = calls_of(np.float32), calls_of(np.bool_)
    for (name, number), (same_name, truth) in zip(numbers, truths, strict=True):
        assert name == same_name
        assert truth["mask"].dtype == np.bool_
        assert (truth["mask"] == (number["mask"] == 0)).all()
    assert truths[0][1]["mask"].sum(-1).reshape(-1).tolist() == [1, 2, 0, 0]


def test_the_parameters_are_the_first_position_and_twice_the_one_after_the_last() -> None:
    assert [inputs["param_tensor"].reshape(-1).tolist() for _, inputs in calls_of(np.float32)] == [
        [0, 2, 2, 0, 0, 0, 0],
        [2, 3, 3, 0, 0, 0, 0],
    ]


def test_a_file_without_a_signature_that_decodes_is_no_decoder() -> None:
    with pytest.raises(InputError, match="no signature decode of the file gives logits: it has verify"):
        Runner({"verify": types(np.float32)["verify"]}, lambda name, inputs, history: inputs, lambda: None)
