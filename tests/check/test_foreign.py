"""Verdicts on what a file computes, with a file that is a function."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from autoconvert.check.constant_types import Described
from autoconvert.check.foreign import ForeignCheck
from autoconvert.check.parity import Reference
from autoconvert.check.readings import Reading
from autoconvert.check.verdict import NUMBER_LAYERS
from autoconvert.quantization.recipe import Recipe
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.loaded_file import SignatureTypes, TensorType
from autoconvert.runtime.runner import Runner

CONTEXT, CHUNK, VOCABULARY = 64, 8, 11

# Of the token and of the number of the call, what is added to the logits.
Fault = Callable[[int, int], float]


def table(token: int) -> Tensor:
    """Logits [tokens] that depend on the last token alone."""
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(token))


class Model:
    """A model that knows one token at a time."""

    parameters = 1

    def placed(self, tokens: Sequence[int], start: int, at: Sequence[int]) -> Tensor:
        return torch.stack([table(tokens[index]) for index in at])


def verdicts(
    fault: Fault, *types: str, parameters: int = 1, rounded: Fault = lambda position, call: 0.0
) -> dict[str, tuple[str, str]]:
    calls = count()

    def run(signature: str, inputs: Any, history: int) -> Any:
        token, number = int(inputs["tokens"][0, 0]), next(calls)
        logits = table(token) + fault(int(inputs["input_pos"][0]), number) * torch.arange(VOCABULARY)
        return {"logits": logits.numpy()[None, None]}

    def signature(length: int, outputs: dict[str, TensorType]) -> SignatureTypes:
        shapes = {"tokens": (1, length), "input_pos": (length,), "mask": (1, 1, length, CONTEXT)}
        inputs = {name: TensorType(shape, np.dtype(np.int32)) for name, shape in shapes.items()}
        inputs["mask"] = TensorType(shapes["mask"], np.dtype(np.float32))
        return SignatureTypes(inputs, outputs)

    logits = {"logits": TensorType((1, 1, VOCABULARY), np.dtype(np.float32))}
    runner = Runner({f"prefill_{CHUNK}": signature(CHUNK, {}), "decode": signature(1, logits)}, run, lambda: None)
    model = Model()
    model.parameters = parameters

    def rounded_model(reading: Reading, recipe: Recipe, seed: int) -> Tensor:
        assert recipe.name == "int8"
        text = model.placed(reading.tokens, reading.start, reading.compared)
        faults = [rounded(reading.start + index, 0) for index in reading.compared]
        return text + torch.tensor(faults)[:, None] * torch.arange(VOCABULARY)

    check = ForeignCheck(runner, Described(types), cast(Reference, model), rounded_model, CONTEXT, False)
    return {verdict.layer: (verdict.outcome, verdict.detail) for verdict in check.verdicts()}


def outcomes(found: dict[str, tuple[str, str]]) -> list[str]:
    assert tuple(found) == NUMBER_LAYERS
    return [outcome for outcome, _ in found.values()]


@pytest.mark.parametrize("types", [(), ("int8",), ("float16", "int4")])
def test_the_models_own_logits_pass(types: Sequence[str]) -> None:
    assert outcomes(verdicts(lambda position, call: 0.0, *types)) == ["passed"] * 5


def test_the_first_position_that_differs_is_named() -> None:
    found = verdicts(lambda position, call: 0.1 if position >= 5 else 0.0)
    assert outcomes(found) == ["failed"] * 4 + ["passed"]
    assert "first at position 5; 0.0001 are allowed" in found["decode"][1]


def test_a_deep_model_is_held_to_itself_rounded_in_the_same_way() -> None:
    change = 0.2
    found = verdicts(lambda position, call: change, "int8", rounded=lambda position, call: change)
    assert outcomes(found) == ["passed"] * 5
    assert "from the model rounded in the same way they are 0 σ off" in found["quantisation"][1]
    assert outcomes(verdicts(lambda position, call: change, "int8")) == ["failed"] * 5
    # No recipe rounds to four bits.
    four_bits = verdicts(lambda position, call: 3 * change, "int4", rounded=lambda position, call: 3 * change)
    assert outcomes(four_bits) == ["failed"] * 5


def test_logits_that_are_no_numbers_fail() -> None:
    assert outcomes(verdicts(lambda position, call: float("nan"), "int8")) == ["failed"] * 5


def test_what_rounding_explains_passes_and_what_is_more_fails() -> None:
    assert outcomes(verdicts(lambda position, call: 0.01, "int8")) == ["passed"] * 5
    found = verdicts(lambda position, call: 0.2, "int8")
    assert outcomes(found) == ["failed"] * 5
    assert "0.25 are explained by rounding" in found["quantisation"][1]


def test_a_file_that_says_another_thing_the_second_time_fails() -> None:
    found = verdicts(lambda position, call: 1e-6 * call)
    assert outcomes(found)[:4] == ["failed"] * 4
    assert "left uninitialised" in found["prefill"][1]


def test_a_file_that_dies_fails_in_every_layer_that_runs_it() -> None:
    def die(position: int, call: int) -> float:
        raise RuntimeFailed("it dies")

    assert outcomes(verdicts(die)) == ["failed"] * 4 + ["passed"]


def test_rounding_of_which_nothing_is_known_is_not_judged() -> None:
    found = verdicts(lambda position, call: 0.0, "int2")
    assert outcomes(found) == ["not checked"] * 5
    assert "int2" in found["quantisation"][1]


def test_what_would_take_too_long_is_said() -> None:
    found = verdicts(lambda position, call: 0.1 * (position > 40), parameters=10**12)
    assert outcomes(found) == ["passed", "passed", "not checked", "not checked", "passed"]
    assert "--verify full" in found["window"][1]
