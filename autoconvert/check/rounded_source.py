"""The source itself, rounded as a kind of file is: its tables of rows stored by a recipe, factors as kernels take them.

So what rounding does to a model is known without the file. Of a few layers it gives an int8 file's logits to 10⁻⁶ σ;
over many, the smallest difference decides whether a number is rounded up or down, and the two drift apart.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autoconvert.check.parity import Reference, reference_of
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.expected_uses import expected_uses
from autoconvert.quantization.recipe import MULTIPLIED, Recipe, Use
from autoconvert.source.source import Source
from autoconvert.source.streamed import LazyParameter
from autoconvert.source.weights import Weights

# Products of rows and a parameter, by where the rows stand: the parameter follows.
_PRODUCTS: Mapping[Any, int] = {
    functional.linear: 0,
    torch.addmm: 1,
    torch.matmul: 0,
    torch.mm: 0,
    Tensor.__matmul__: 0,
    Tensor.matmul: 0,
    Tensor.mm: 0,
}

# A buffer is no parameter.
_AS_A_FACTOR = frozenset({MULTIPLIED})

# How far two kernels are apart in float32, relative to the number.
_LAST_BITS = 4 * torch.finfo(torch.float32).eps


@contextmanager
def rounded_reference(source: Source, recipe: Recipe, jitter: int = 0) -> Iterator[Reference]:
    """The source's module as a file of `recipe` computes it, its weights streamed in, while the context lasts.

    With `jitter`, a seed, the last bits of what is multiplied are others, as if another kernel had computed it.
    """
    rounded = _Rounded(source.weights, recipe, expected_uses(source.module))
    with reference_of(replace(source, weights=rounded)) as reference, _RoundedProducts(rounded, jitter):
        yield reference


@dataclass(frozen=True)
class _Rounded:
    """Weights of which each table, or stack of tables, is rounded row by row."""

    weights: Weights
    recipe: Recipe
    uses: Mapping[str, frozenset[Use]]

    def names(self) -> Collection[str]:
        return self.weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.weights.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self.weights.dtype(name)

    def nbytes(self, name: str) -> int:
        return self.weights.nbytes(name)

    def read(self, name: str) -> Tensor:
        return self._rounded(name, self.weights.read(name))

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        return self._rounded(name, self.weights.read_rows(name, start, stop))

    def by_columns(self, name: str) -> Tensor:
        """The transpose of a table, rounded row by row: where columns are what a product gives."""
        return self._rounded(name, self.weights.read(name).mT)

    def takes_integers(self, name: str) -> bool:
        """Whether the kernel that multiplies with this table rounds the other factor."""
        encoding = self._encoding(name, self.shape(name))
        return np.issubdtype(encoding.dtype, np.integer) and encoding.dequantize_version is None

    def _is_table(self, name: str) -> bool:
        """Whether these are rows, or stacks of them; a depthwise convolution or a vector with axes of 1 has one row."""
        shape = self.shape(name)
        return len(shape) > 1 and shape[-2] > 1

    def _encoding(self, name: str, shape: Sequence[int]) -> Encoding:
        return self.recipe.encoding_of([name], self.uses.get(name, _AS_A_FACTOR), shape[-2:])

    def _rounded(self, name: str, value: Tensor) -> Tensor:
        if not self._is_table(name):
            return value
        encoding, rows = self._encoding(name, value.shape), value.float().reshape(-1, value.shape[-1]).numpy()
        stored = encoding.encode(rows)
        return torch.from_numpy(encoding.decode(stored.data, stored.scales)).reshape(value.shape)


class _RoundedProducts(TorchFunctionMode):
    """Products with a parameter as the kernels for the `rounded` weights compute them."""

    def __init__(self, rounded: _Rounded, jitter: int) -> None:
        super().__init__()
        self._rounded = rounded
        self._generator = torch.Generator().manual_seed(jitter) if jitter else None

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        place = _PRODUCTS.get(function, len(args))
        match args[place : place + 2]:
            case (x, LazyParameter() as weight):
                operands = self._operands(x, weight, function is functional.linear)
                args = (*args[:place], *operands, *args[place + 2 :])
        return function(*args, **(kwargs or {}))

    def _operands(self, x: Tensor, weight: LazyParameter, transposes: bool) -> tuple[Tensor, Tensor]:
        name = weight.name_in_module
        if self._generator is not None:
            x = x * (1 + _LAST_BITS * torch.randn(x.shape, generator=self._generator))
        factor = rounded_rows(x) if self._rounded.takes_integers(name) else x
        if weight.dim() != 2 or weight.transposed != transposes:
            return factor, weight
        outputs = self._rounded.by_columns(name)
        return factor, outputs if transposes else outputs.mT


def rounded_rows(x: Tensor) -> Tensor:
    """Rows [..., columns] in 256 steps between the smallest and the largest number of each, zero among them.

    As XNNPACK rounds what is multiplied with int8 (`xnn_f32_qd8_asymmetric_quantization_params`).
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = torch.where(high > low, (high - low) / 255, 1.0)
    zero = torch.round(-128 - low / scale).clamp(-128, 127)
    return ((torch.round(x / scale) + zero).clamp(-128, 127) - zero) * scale
