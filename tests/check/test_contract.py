"""The signatures of a file that anybody made: what the runtime takes passes, what it cannot take is named."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from autoconvert.check.contract import verdict_of
from autoconvert.runtime.loaded_file import SignatureTypes, TensorType
from autoconvert.runtime.open_shapes import OPEN

CONTEXT, CHUNK, TOKENS = 32, 8, 31

Types = Mapping[str, SignatureTypes]


def tensor(*shape: int, dtype: type = np.float32) -> TensorType:
    return TensorType(shape, np.dtype(dtype))


def signature(length: int, *, decode: bool = False, context: int = CONTEXT) -> SignatureTypes:
    states = {"kv_cache_k_0": tensor(1, 2, context, 4), "kv_cache_v_0": tensor(1, 2, 4, context)}
    ports = {
        "tokens": tensor(1, length, dtype=np.int32),
        "input_pos": tensor(length, dtype=np.int32),
        "mask": tensor(1, 1, length, context),
    }
    return SignatureTypes({**ports, **states}, {**states, **({"logits": tensor(1, 1, TOKENS)} if decode else {})})


GOOD: Types = {f"prefill_{CHUNK}": signature(CHUNK), "decode": signature(1, decode=True)}

ANY_LENGTH: Types = {"prefill": signature(OPEN, context=OPEN), "decode": signature(1, decode=True, context=OPEN)}


def given(name: str, **inputs: TensorType) -> Types:
    return {**GOOD, name: replace(GOOD[name], inputs={**GOOD[name].inputs, **inputs})}


def without(name: str, *, inputs: str = "", outputs: str = "") -> Types:
    kept = SignatureTypes(
        {port: type_ for port, type_ in GOOD[name].inputs.items() if port != inputs},
        {port: type_ for port, type_ in GOOD[name].outputs.items() if port != outputs},
    )
    return {**GOOD, name: kept}


def everywhere(change: Callable[[SignatureTypes], SignatureTypes]) -> Types:
    return {name: change(types) for name, types in GOOD.items()}


def masked(dtype: type, context: int = CONTEXT) -> Types:
    return everywhere(
        lambda types: replace(
            types, inputs={**types.inputs, "mask": tensor(*types.inputs["mask"].shape[:3], context, dtype=dtype)}
        )
    )


@pytest.mark.parametrize(
    "types",
    [
        GOOD,
        masked(np.bool_),
        given("decode", param_tensor=tensor(1, 1, 1, 7, dtype=np.int32)),
        {**GOOD, "verify": signature(3, decode=True)},
    ],
    ids=["float mask", "bool mask", "parameters", "another signature"],
)
def test_what_the_runtime_takes_passes(types: Types) -> None:
    verdict = verdict_of(types)
    assert verdict.outcome == "passed", verdict
    assert verdict.detail == "prefill_8, decode; a context of 32 positions, 2 states"


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({}, "the signatures are none"),
        ({"serving_default": GOOD["decode"]}, "the signatures are serving_default"),
        ({"decode": GOOD["decode"]}, "prefill_N and decode are needed"),
        (without("decode", inputs="mask"), "decode has no input mask"),
        (without("decode", outputs="logits"), "decode gives no logits"),
        (without("prefill_8", outputs="kv_cache_k_0"), "kv_cache_k_0 of prefill_8 goes in and does not come out"),
        (without("decode", inputs="kv_cache_v_0"), "kv_cache_v_0 of decode comes out and does not go in"),
        (given("decode", kv_cache_k_0=tensor(1, 2, 16, 4)), "kv_cache_k_0 of decode comes out with another type"),
        (given("decode", tokens=tensor(1, 1)), "tokens of decode is float32, and int32 is needed"),
        (given("prefill_8", tokens=tensor(1, 4, dtype=np.int32)), "tokens of prefill_8 is [1, 4]"),
        (given("decode", mask=tensor(1, 1, 1, 16)), "contexts of 16, 32 positions"),
        (given("decode", param_tensor=tensor(7)), "param_tensor of decode is not int32 of [1, 1, 1, 7]"),
        (masked(np.float16), "the mask of prefill_8 is float16"),
        (masked(np.float32, 31), "a context of 31 positions, a prime number"),
    ],
)
def test_what_the_runtime_cannot_take_is_named(types: Types, said: str) -> None:
    verdict = verdict_of(types)
    assert verdict.outcome == "failed"
    assert said in verdict.detail


@pytest.mark.parametrize("name", ["embeddings", "local_mask"])
def test_inputs_that_are_not_given_here_are_said(name: str) -> None:
    verdict = verdict_of(given("decode", **{name: tensor(1, 1, 8)}))
    assert verdict.outcome == "not checked"
    assert f"{name} (of decode)" in verdict.detail


def test_a_long_shortest_prefill_is_noted() -> None:
    verdict = verdict_of({"prefill_24": signature(24), "decode": GOOD["decode"]})
    assert verdict.outcome == "passed"
    assert "the last 23 positions of a chat may be lost" in verdict.detail


def test_lengths_that_follow_the_history_pass() -> None:
    verdict = verdict_of(ANY_LENGTH)
    assert verdict.outcome == "passed", verdict
    assert verdict.detail == "prefill, decode; chunks of any length, 2 states that follow the history"


def test_lengths_of_which_some_follow_the_history_are_not_judged() -> None:
    mixed = {"prefill_8": GOOD[f"prefill_{CHUNK}"], "decode": ANY_LENGTH["decode"]}
    verdict = verdict_of(mixed)
    assert verdict.outcome == "not checked"
    assert "some lengths follow the history" in verdict.detail
