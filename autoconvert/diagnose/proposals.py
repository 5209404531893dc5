"""What a block may become: calls of the operations of its kind, tried on the numbers of a pattern's example."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.ops.feed_forward import ACTIVATIONS
from autoconvert.rewrite.pattern import Pattern

Value = Tensor | float
# Code for the tensors that a block takes, by name with their ranks, and the numbers in it.
Proposals = Callable[[Mapping[str, int], Sequence[str]], Iterator[str]]

_EXACT = 1e-11
_SMALL = 1e-4


def proposal(pattern: Pattern, tables: Sequence[str] = ()) -> str | None:
    """A call that gives the numbers of `matches` on the example, as Python code; None where none is known that does.

    It does not use the parameters `tables`, which stand for what the model holds.
    """
    values = _precise(pattern.inputs())
    tensors = {name: value.ndim for name, value in values.items() if isinstance(value, Tensor) and name not in tables}
    propose = _PROPOSALS.get(pattern.block)
    if propose is None or not tensors:
        return None
    numbers = [name for name, value in values.items() if not isinstance(value, Tensor)]
    parameters = ", ".join(values)
    tried = [(given, _run(pattern.matches, given)) for given in (values, _small(values, next(iter(tensors))))]
    for code in propose(tensors, numbers):
        function = eval(f"lambda {parameters}: {code}", {"ops": ops, "torch": torch})
        if all(_is_same(_run(function, given), expected) for given, expected in tried):
            return code
    return None


def _precise(values: Mapping[str, Value]) -> dict[str, Value]:
    """In float64 formulas that are nearly the same are not."""
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in values.items()
    }


def _small(values: Mapping[str, Value], first: str) -> dict[str, Value]:
    """The first tensor so small that what is added to its square counts."""
    return {name: value * _SMALL if name == first else value for name, value in values.items()}


def _run(function: Callable[..., Tensor], values: Mapping[str, Value]) -> Tensor | None:
    try:
        with torch.no_grad():
            return function(**values)
    # A proposal need not fit the sizes at all, nor a block have a meaning in float64.
    except Exception:
        return None


def _is_same(actual: Tensor | None, expected: Tensor | None) -> bool:
    if actual is None or expected is None or actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    scale = float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 0.0
    return scale > 0 and torch.allclose(actual, expected, rtol=_EXACT, atol=_EXACT * scale, equal_nan=True)


def _norms(tensors: Mapping[str, int], numbers: Sequence[str]) -> Iterator[str]:
    """A mean or a sum of squares, and whatever number the weight is multiplied with."""
    x, *vectors = tensors
    weight, bias = (*vectors, None, None)[:2]
    width = f"{x}.shape[-1]"
    # What holds for any number comes before what holds for this one.
    products = [*(f" * {n}" for n in numbers), ""]
    factors = [*(f"{factor} * {width} ** -0.5" for factor in products), *products]
    epsilons = [*numbers, *(f"{n} / {width}" for n in numbers), *(f"{n} ** 2 / {width}" for n in numbers), "1e-12"]
    for factor, eps in product(factors if weight else [""], epsilons):
        scaled = f"{weight}{factor}" if weight else None
        if bias is None:
            yield f"ops.rms_norm({x}, {scaled}, {eps})"
        yield f"ops.layer_norm({x}, {scaled}, {bias}, {eps})"


def _rotaries(tensors: Mapping[str, int], numbers: Sequence[str]) -> Iterator[str]:
    """Tables of the whole width or of half of it, pairs of halves or of neighbours, either way round."""
    x, *tables = tensors
    if len(tables) != 2:
        return
    cos, sin = tables if "cos" in tables[0] or "sin" in tables[1] else tables[::-1]
    wholes = ("{}", "torch.cat(({0}, {0}), -1)", "{}.repeat_interleave(2, -1)")
    for whole, sign, ending in product(wholes, ("", "-"), ("", ", interleaved=True")):
        yield f"ops.rotary({x}, {whole.format(cos)}, {sign}{whole.format(sin)}{ending})"


def _feed_forwards(tensors: Mapping[str, int], numbers: Sequence[str]) -> Iterator[str]:
    """Any activation, two matrices in either order, or both in one."""
    x, *others = tensors
    weights = [name for name in others if not name.endswith("_bias")]
    biases = {name: f"{name}_bias" if f"{name}_bias" in others else None for name in weights}
    for activation in ACTIVATIONS:
        if len(weights) == 3:
            *both, down = weights
            for gate, up in (both, both[::-1]):
                added = f"{biases[gate]}, {biases[up]}, {biases[down]}"
                yield f'ops.gated_feed_forward({x}, {gate}, {up}, {down}, {added}, "{activation}")'
        elif len(weights) == 2:
            both_in_one, down = weights
            bias = biases[both_in_one]
            for part in ("{}, None", "*{}.chunk(2)[::-1]", "{0}[::2], {0}[1::2]", "{0}[1::2], {0}[::2]"):
                added = f"{part.format(bias) if bias else 'None, None'}, {biases[down]}"
                yield f'ops.gated_feed_forward({x}, {part.format(both_in_one)}, {down}, {added}, "{activation}")'


def _attentions(tensors: Mapping[str, int], numbers: Sequence[str]) -> Iterator[str]:
    """Any order of heads, positions and width, heads that share keys as an axis of their own, any mask and scale."""
    if not {"query", "key", "value"} <= set(tensors):
        return
    masks = ["mask", "~mask", "mask.mT", "~mask.mT"] if "mask" in tensors else ["None"]
    causal = "mask" not in tensors
    scales = [*numbers, *(f"1 / {n}" for n in numbers), "1.0", "0.5", "2.0"]
    pairs = (("query", "key"), ("key", "query"))
    operands = [
        f"{query.format(first)}, {key.format(second)}"
        for first, second in pairs
        for query, key in product(_QUERIES.get(tensors[first], ()), _KEYS.get(tensors[second], ()))
    ]
    for both, value in product(operands, _KEYS.get(tensors["value"], ())):
        heads = f"{both}, {value.format('value')}"
        for mask, scale, result in product(masks, scales, _RESULTS):
            yield result.format(f"ops.attention({heads}, {mask}, {scale}, {causal})")


# [batch, heads, positions, width] of what has so many axes.
_QUERIES = {
    3: ["{}[None]"],
    4: ["{}", "{}.mT", "{}.transpose(1, 2)"],
    5: ["{}.flatten(1, 2)", "{}.flatten(2, 3).transpose(1, 2)"],
}
_KEYS = {
    3: ["{}[None]", "{}[None].mT"],
    4: ["{}", "{}.mT", "{}.transpose(1, 2)", "{}.permute(0, 2, 3, 1)"],
    5: ["{}.squeeze(2)", "{}.squeeze(2).mT", "{}.squeeze(1)", "{}.squeeze(1).mT"],
}
_RESULTS = (
    "{}",
    "{}.transpose(1, 2)",
    "{}.mT",
    "{}.unflatten(1, query.shape[1:3])",
    "{}.transpose(1, 2).unflatten(2, query.shape[1:3])",
    "{}.transpose(1, 2).unflatten(2, query.shape[2:4])",
    "{}[0]",
)
_PROPOSALS: dict[str, Proposals] = {
    "norm": _norms,
    "rotary": _rotaries,
    "feed_forward": _feed_forwards,
    "attention": _attentions,
}
