"""Uniform quantization: a number is a whole number of steps, and a row, or each block of a row, has a step of its own.

Steps are symmetric and chosen by ai-edge-quantizer's tensor-level functions, applied to tiles of whole rows: a row's
steps depend on nothing outside the row. Where the numbers lie on such steps already, as those of a checkpoint that was
quantized once, these are kept. A kernel that multiplies with such a weight rounds the other factor as it comes; where
the weight is widened before its use, nothing else is rounded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, get_args

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize import mse, naive_min_max_quantize, octav
from ml_dtypes import bfloat16

from autoconvert.quantization.encoding import Encoded, Encoding, Numbers, Shape, Stored, largest_of_rows
from autoconvert.quantization.grid import NEAR, steps_of

# How a step is chosen: by the largest number, or such that large numbers are cut off for the sake of the others.
Choice = Literal["min-max", "octav", "mse"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
BLOCKS = (32, 64, 128, 256)

_FUNCTIONS: Mapping[Choice, Callable[..., qtyping.UniformQuantParams]] = {
    "min-max": naive_min_max_quantize.get_tensor_quant_params,
    "octav": octav.get_tensor_quant_params,
    "mse": mse.get_tensor_quant_params,
}
_TYPES: Mapping[int, tuple[int, type[np.generic]]] = {
    8: (TensorType.INT8, np.int8),
    4: (TensorType.INT4, np.uint8),
}
# The versions of DEQUANTIZE that read a step a row.
_DEQUANTIZE = {8: 5, 4: 6}
# What the quantizer's choice by mean squares makes of their root, by bits (its mse.py).
_OF_MEAN_SQUARE = {8: 0.05408, 4: 0.37755}
# Step, quotient and product are rounded to float32, each by less than 127 · 2⁻²⁴ of a step.
_HALF_STEP = np.float32(0.5 + 5e-5)
# A row of zeros has some step too; the quantizer takes the one of this largest number.
_SMALLEST_LARGEST = 1e-9
# The smallest number of float16, which holds the steps of blocks; 0 would be divided by.
_SMALLEST_OF_BLOCK = np.float32(2**-24)
# The step of a block has the eight binary digits of bfloat16, or is off by half of float16's smallest number.
_ROUNDED, _ROUNDED_SMALL = 2**-8, _SMALLEST_OF_BLOCK / 2


@dataclass(frozen=True)
class Scheme:
    """`bits` hold a number, and `block` numbers of a row share a step: all of a row where it is None."""

    bits: int
    block: int | None = None
    choice: Choice = "min-max"

    @property
    def most(self) -> int:
        """The largest number of steps; one more below zero."""
        return int(2 ** (self.bits - 1) - 1)

    def in_groups(self, rows: Numbers) -> Numbers:
        """The numbers that share a step: [rows, columns] as [rows, groups, numbers]."""
        return rows.reshape(len(rows), 1 if self.block is None else -1, self.block or rows.shape[1])

    def smallest(self) -> np.float32:
        return np.float32(_SMALLEST_LARGEST / self.most) if self.block is None else _SMALLEST_OF_BLOCK

    def stored(self, steps: Numbers) -> Numbers:
        """Steps as the file holds them: those of blocks in float16, as many digits as bfloat16 has."""
        if self.block is None:
            return steps
        return steps.astype(bfloat16).astype(np.float16).astype(np.float32)


def uniform(bits: int, block: int | None = None, choice: Choice = "min-max", widened: bool = False) -> Encoding:
    """The encoding of a scheme; `widened` where DEQUANTIZE shall make float32 of the weight before its use."""
    return _encoding(Scheme(bits, block, choice), widened)


@cache
def _encoding(scheme: Scheme, widened: bool) -> Encoding:
    bits, block, choice = scheme.bits, scheme.block, scheme.choice
    tensor_type, dtype = _TYPES[bits]
    words = (
        f"int{bits}",
        "" if (bits, block) in ((8, None), (4, 32)) else "in rows" if block is None else f"in blocks of {block}",
        "" if choice == "min-max" else choice,
        "widened" if widened else "",
    )
    return Encoding(
        " ".join(filter(None, words)),
        tensor_type,
        dtype,
        partial(_encode, scheme),
        partial(_decode, scheme),
        partial(_tolerance, scheme),
        scale_shape=_a_row if block is None else partial(_a_block, block),
        packed=8 // bits,
        block=block,
        dequantize_version=_DEQUANTIZE[bits] if widened else None,
    )


def _a_row(shape: Shape) -> Shape:
    return shape[:1]


def _a_block(block: int, shape: Shape) -> Shape:
    return (shape[0], shape[1] // block)


def _encode(scheme: Scheme, rows: Numbers) -> Encoded:
    """A NaN or an infinity anywhere in a group comes out as a step that is not finite."""
    groups = scheme.in_groups(rows)
    parameters = _FUNCTIONS[scheme.choice](*_asked_for(scheme), rows)
    steps = np.array(parameters.scale, np.float32).reshape(groups.shape[:2])
    numbers = np.asarray(parameters.quantized_data, np.int8).reshape(groups.shape)
    if scheme.choice != "min-max":
        # A choice that cuts off would cut off an infinity too.
        steps[~np.isfinite(largest_of_rows(rows))] = np.nan
    if (vanished := steps == 0).any():
        numbers[vanished] = np.rint(groups[vanished] / scheme.smallest())
        steps[vanished] = scheme.smallest()
    kept = _keep_grid(scheme, groups, numbers, steps)
    scales = steps[:, 0] if scheme.block is None else steps
    return Encoded(_packed(scheme, numbers.reshape(rows.shape)), np.ascontiguousarray(scales), kept)


def _asked_for(scheme: Scheme) -> tuple[qtyping.OpInfo, qtyping.TensorQuantizationConfig]:
    """What the quantizer is told; EMBEDDING_LOOKUP quantizes alike: the same axis, the same range."""
    granularity = qtyping.QuantGranularity("CHANNELWISE" if scheme.block is None else f"BLOCKWISE_{scheme.block}")
    config = qtyping.TensorQuantizationConfig(num_bits=scheme.bits, symmetric=True, granularity=granularity)
    precision = qtyping.OpQuantizationConfig(
        weight_tensor_config=config, compute_precision=qtyping.ComputePrecision.INTEGER
    )
    return qtyping.OpInfo(None, qtyping.TFLOperationName.FULLY_CONNECTED, 0, precision), config


def _keep_grid(scheme: Scheme, groups: Numbers, numbers: Stored, steps: Numbers) -> int:
    """Put in the steps of groups that lie on some, and give how many numbers do."""
    found = steps_of(groups, scheme.most)
    if found is None:
        return 0
    stored = scheme.stored(found)
    on_grid = np.abs(stored - found) <= found * _ROUNDED
    numbers[on_grid] = np.rint(groups[on_grid] / found[on_grid][:, None])
    steps[on_grid] = stored[on_grid]
    return int(np.count_nonzero(on_grid)) * groups.shape[2]


def _packed(scheme: Scheme, numbers: Stored) -> Stored:
    """Of two numbers in a byte the first is in the lower half."""
    if scheme.bits == 8:
        return numbers
    packed: Stored = ((numbers[:, 0::2] & 0xF) | (numbers[:, 1::2] << 4)).view(np.uint8)
    return packed


def _decode(scheme: Scheme, data: Stored, scales: Numbers | None) -> Numbers:
    assert scales is not None
    if scheme.bits == 4:
        # A shift to the right fills with the sign.
        data = np.stack([(data << 4).view(np.int8) >> 4, data.view(np.int8) >> 4], axis=-1).reshape(len(data), -1)
    numbers: Numbers = data.astype(np.float32)
    groups = scheme.in_groups(numbers)
    groups *= scales.reshape(groups.shape[:2])[:, :, None]
    return numbers


def _tolerance(scheme: Scheme, rows: Numbers, scales: Numbers | None) -> Numbers:
    """Half a step, where the step is as fine as the largest number of its group asks for; more where that is cut off.

    A coarser step is right for numbers that lie on it.
    """
    assert scales is not None
    groups = scheme.in_groups(rows)
    steps = scales.reshape(groups.shape[:2])
    largest = largest_of_rows(rows)[:, None] if scheme.block is None else np.abs(groups).max(axis=2)
    finest = (np.maximum(largest, _SMALLEST_LARGEST) / scheme.most).astype(np.float32)
    half = np.where(steps <= _coarsest(scheme, groups, finest), steps * _HALF_STEP, np.nan)
    on_grid = np.isnan(half) & (steps <= largest * (1 + _ROUNDED))
    allowed = np.where(on_grid, finest * (NEAR + 2 * (scheme.most + 1) * _rounded(scheme)), half)
    allowed[~(steps > 0)] = np.nan
    if scheme.block is None and scheme.choice == "min-max":
        return allowed.astype(np.float32)
    reach = scheme.most * steps
    # A choice keeps as few steps below zero as above it, a grid may have one more.
    cut = np.maximum(groups.max(axis=2) - reach, -groups.min(axis=2) - reach - steps)
    allowed[cut > _cut_off(scheme, groups, largest)] = np.nan
    beyond = np.abs(groups) - reach[:, :, None]
    return np.maximum(allowed[:, :, None], beyond + largest[:, :, None] * 1e-5).astype(np.float32).reshape(rows.shape)


def _rounded(scheme: Scheme) -> float:
    return 0.0 if scheme.block is None else _ROUNDED


def _coarsest(scheme: Scheme, groups: Numbers, finest: Numbers) -> Numbers:
    """The coarsest step that a choice gives; the one by mean squares does not ask for the largest number."""
    if scheme.block is not None:
        return np.maximum(finest * (1 + _ROUNDED) + _ROUNDED_SMALL, scheme.smallest())
    if scheme.choice == "mse":
        finest = np.maximum(finest, _OF_MEAN_SQUARE[scheme.bits] * np.sqrt(np.square(groups).mean(axis=2)))
    return finest * (1 + 1e-5)


def _cut_off(scheme: Scheme, groups: Numbers, largest: Numbers) -> Numbers:
    """By how much a number may be beyond all steps: their rounding, or what is above the mean where a choice cuts."""
    if scheme.choice == "min-max":
        return largest * _ROUNDED + scheme.most * _ROUNDED_SMALL
    mean: Numbers = largest - np.abs(groups).mean(axis=2) * (1 - 1e-3)
    return mean


INT8_ROWS = uniform(8)
INT4_BLOCKS = uniform(4, 32)
