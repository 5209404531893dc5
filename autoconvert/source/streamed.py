"""The unmodified module run for real in float32, each parameter read by the operation that uses it.

This is the reference that conversions are compared with: the module's own forward, in the memory of its
largest tensor. A parameter is a tensor without storage; an operation that meets one reads it, and drops it
again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoconvert.source.source import Source
from autoconvert.source.weights import Weights

# Bytes in float32: a larger matrix is multiplied in tiles of rows, whose memory the allocator uses again. Larger pieces
# it gives back to the system each time, and getting their pages anew takes longer than multiplying with them.
TILE = 4 << 20

aten = torch.ops.aten


@contextmanager
def streamed(source: Source, dtype: torch.dtype = torch.float32) -> Iterator[nn.Module]:
    """`source.module` with parameters of `dtype` that read themselves; as it was before on leaving.

    Numerically the module loaded in `dtype`, but for the order of sums in large matrices. No gradients.
    """
    module = source.module
    before = dict(module.named_parameters(remove_duplicate=False))
    readable: dict[int, nn.Parameter] = {}
    for name, parameter in before.items():
        if id(parameter) not in readable:
            lazy = LazyParameter(source.weights, name, tuple(parameter.shape), dtype=dtype)
            readable[id(parameter)] = nn.Parameter(lazy, requires_grad=False)
    try:
        for name, parameter in before.items():
            _register(module, name, readable[id(parameter)])
        with torch.no_grad():
            yield module
    finally:
        for name, parameter in before.items():
            _register(module, name, parameter)


class LazyParameter(torch.Tensor):
    """A tensor that names a weight instead of holding it; `transposed` swaps the last two axes."""

    weights: Weights
    name_in_module: str
    transposed: bool

    @staticmethod
    def __new__(
        cls,
        weights: Weights,
        name: str,
        shape: tuple[int, ...],
        transposed: bool = False,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> "LazyParameter":
        order = _row_major(_swapped(shape) if transposed else shape)
        order = _swapped(order) if transposed else order
        lazy: LazyParameter = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=order, dtype=dtype, device=torch.device("cpu"), requires_grad=False
        )
        lazy.weights, lazy.name_in_module, lazy.transposed = weights, name, transposed
        return lazy

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"LazyParameter({self.name_in_module}, {tuple(self.shape)})"

    # Python-level overrides would hide which operation runs; everything is decided in __torch_dispatch__.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        operation: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if (special := SPECIAL.get(operation)) is not None:
            result = special(*args, **kwargs)
            if result is not None:
                return result
        return operation(*_read_all(args), **{key: _read_all(value) for key, value in kwargs.items()})

    def read(self) -> torch.Tensor:
        whole = self.weights.read(self.name_in_module).to(self.dtype)
        return whole.mT if self.transposed else whole

    def read_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of the stored tensor, whether transposed or not."""
        return self.weights.read_rows(self.name_in_module, start, stop).to(self.dtype)


def _register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    module.get_submodule(path).register_parameter(leaf, parameter)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2])


def _oriented(tensor: LazyParameter, rows: torch.Tensor) -> torch.Tensor:
    return rows.mT if tensor.transposed else rows


def _read_all(value: Any) -> Any:
    if isinstance(value, LazyParameter):
        return value.read()
    if isinstance(value, list | tuple):
        return type(value)(_read_all(item) for item in value)
    return value


def _same(tensor: LazyParameter) -> LazyParameter:
    shape, dtype = tuple(tensor.shape), tensor.dtype
    return LazyParameter(tensor.weights, tensor.name_in_module, shape, tensor.transposed, dtype=dtype)


def _transpose(tensor: LazyParameter, dim0: int = 0, dim1: int = 1) -> LazyParameter | None:
    rank = tensor.dim()
    if rank < 2 or {dim0 % rank, dim1 % rank} != {rank - 2, rank - 1}:
        return None
    shape = _swapped(tuple(tensor.shape))
    return LazyParameter(tensor.weights, tensor.name_in_module, shape, not tensor.transposed, dtype=tensor.dtype)


def _permute(tensor: LazyParameter, dims: Sequence[int]) -> LazyParameter | None:
    rank = tensor.dim()
    swap = [*range(rank - 2), rank - 1, rank - 2]
    return _transpose(tensor, -2, -1) if [dim % rank for dim in dims] == swap else None


def _embedding(weight: Any, indices: torch.Tensor, *_: object, **__: object) -> torch.Tensor | None:
    if not isinstance(weight, LazyParameter) or weight.transposed:
        return None
    return _gather(weight, indices)


def _index(tensor: Any, indices: Sequence[Any]) -> torch.Tensor | None:
    if not isinstance(tensor, LazyParameter) or tensor.transposed or len(indices) != 1:
        return None
    return None if indices[0].dtype == torch.bool else _gather(tensor, indices[0])


def _gather(weight: LazyParameter, indices: torch.Tensor) -> torch.Tensor:
    """Rows by index, each distinct one read once."""
    if isinstance(indices, LazyParameter) or indices.numel() == 0:
        return weight.read()[indices]
    distinct, places = torch.unique(indices % weight.shape[0], return_inverse=True)
    rows = torch.cat([weight.read_rows(row, row + 1) for row in distinct.tolist()])
    return rows[places]


def _select(tensor: LazyParameter, dim: int, index: int) -> torch.Tensor | None:
    if dim % tensor.dim() != 0 or (tensor.transposed and tensor.dim() == 2):
        return None
    row = index % tensor.shape[0]
    return _oriented(tensor, tensor.read_rows(row, row + 1))[0]


def _slice(
    tensor: LazyParameter, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> torch.Tensor | None:
    if dim % tensor.dim() != 0 or (tensor.transposed and tensor.dim() == 2):
        return None
    begin, stop, _ = slice(start, end).indices(tensor.shape[0])
    return _oriented(tensor, tensor.read_rows(begin, max(begin, stop)))[::step]


def _mm(left: Any, right: Any) -> torch.Tensor | None:
    if isinstance(left, LazyParameter) or not isinstance(right, LazyParameter) or not right.transposed:
        return None
    return _tiled(left, right)


def _addmm(bias: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1) -> torch.Tensor | None:
    product = _mm(left, right) if (beta, alpha) == (1, 1) else None
    return None if product is None else product.add_(_read_all(bias))


def _linear(left: Any, weight: Any, bias: Any = None) -> torch.Tensor | None:
    if isinstance(left, LazyParameter) or not isinstance(weight, LazyParameter) or weight.transposed:
        return None
    product = _tiled(left.reshape(-1, left.shape[-1]), weight)
    if product is None:
        return None
    product = product.reshape(*left.shape[:-1], weight.shape[0])
    return product if bias is None else product.add_(_read_all(bias))


def _grouped_mm(left: Any, stack: Any, offsets: Any = None, bias: Any = None, dtype: Any = None) -> torch.Tensor | None:
    """The rows of `left` up to each offset, times the matrix at that place; only those with rows are read."""
    if isinstance(left, LazyParameter) or not isinstance(stack, LazyParameter) or stack.dim() != 3:
        return None
    if left.dim() != 2 or offsets is None or bias is not None or dtype is not None:
        return None
    product = torch.zeros((left.shape[0], stack.shape[2]), dtype=stack.dtype)
    start = 0
    for place, stop in enumerate(offsets.tolist()):
        if stop > start:
            matrix = _oriented(stack, stack.read_rows(place, place + 1))[0]
            product[start:stop] = left[start:stop] @ matrix
            start = stop
    return product


def _tiled(left: torch.Tensor, matrix: LazyParameter) -> torch.Tensor | None:
    """`left` times the transpose of the stored matrix, a few rows of it at a time; None if it is small."""
    columns = left.shape[-1]
    rows = matrix.numel() // max(columns, 1)
    if matrix.numel() * 4 <= TILE:
        return None
    step = max(1, TILE // (columns * 4))
    product = torch.empty((left.shape[0], rows), dtype=matrix.dtype)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        product[:, start:stop] = left @ matrix.read_rows(start, stop).t()
    return product


# What is worth more than reading the whole parameter; None from a function means that it is not.
SPECIAL: dict[Any, Callable[..., Any]] = {
    aten.detach.default: _same,
    aten.alias.default: _same,
    aten.t.default: _transpose,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.embedding.default: _embedding,
    aten.index.Tensor: _index,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.linear.default: _linear,
    aten._grouped_mm.default: _grouped_mm,
}
