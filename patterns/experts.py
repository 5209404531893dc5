"""Experts: for each pair of a token and an expert, the expert's matrix times the token."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.ir.nodes import is_symbolic
from autoconvert.rewrite.pattern import Example, Pattern

_EXPERTS, _OUT, _IN = 9, 22, 14


def _matrix_times_columns(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return torch.matmul(weight[expert], x)


def _rows_times_matrix(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return torch.matmul(x, weight[expert])


def _rows_times_transposed(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return torch.matmul(x, weight[expert].transpose(-2, -1))


def _columns(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return _exchanged(_rows(_exchanged(x), weight, expert))


def _rows_of_transposed(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return _rows(x, weight.transpose(1, 2), expert)


def _rows(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    """`x` [..., rows, in] times the transpose of `weight` [experts, out, in] at `expert` [...]."""
    rows, width = x.shape[-2], weight.shape[1]
    if x.shape[:-2] != expert.shape:
        x = x.expand(*expert.shape, *x.shape[-2:])
    number = expert if rows == 1 else expert.unsqueeze(-1).expand(*expert.shape, rows)
    product = ops.expert_linear(x.reshape(-1, x.shape[-1]), weight.flatten(0, 1), number.reshape(-1), width)
    leading = [-1 if is_symbolic(size) else size for size in expert.shape]
    result: Tensor = product.reshape(*leading, rows, width)
    return result


def _exchanged(x: Tensor) -> Tensor:
    """The last two axes exchanged; of a single row or column only the shape changes."""
    if 1 in x.shape[-2:]:
        return x.flatten(-2).unsqueeze(-1 if x.shape[-2] == 1 else -2)
    return x.transpose(-2, -1)


def _all_run_for_one(x: Tensor, scores: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Every expert runs on every token, times a score that is 0 for all but the chosen one."""
    best, chosen = scores.topk(1, dim=1)
    shares = torch.sigmoid(torch.full_like(scores, -torch.inf).scatter(1, chosen, best))
    copies = x.repeat(len(down), 1) * shares.transpose(0, 1).reshape(-1, 1)
    gate, up = torch.bmm(copies.view(len(down), -1, x.shape[1]), gate_up).chunk(2, dim=-1)
    return torch.bmm(up * F.silu(gate), down).sum(dim=0)


def _one_runs(x: Tensor, scores: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Of a token times 0, gated layers without biases make 0."""
    best, chosen = scores.topk(1, dim=1)
    inner = _rows_of_transposed((x * torch.sigmoid(best)).unsqueeze(1), gate_up, chosen[:, 0])
    gate, up = inner.chunk(2, dim=-1)
    return _rows_of_transposed(up * F.silu(gate), down, chosen[:, 0]).squeeze(1)


def _one_matrix_each(x: Tensor, weight: Tensor, expert: Tensor) -> str | None:
    if weight.ndim != 3 or x.ndim < 2:
        return f"weights of rank {weight.ndim} are picked for values of rank {x.ndim}"
    leading = list(expert.shape)[len(expert.shape) - len(x.shape[:-2]) :]
    if len(x.shape) - 2 > len(expert.shape) or any(
        size not in (1, other) for size, other in zip(x.shape[:-2], leading, strict=True)
    ):
        return "the same matrix is used for several values"
    return "its numbers have two axes of unknown size" if sum(map(is_symbolic, expert.shape)) > 1 else None


def _pattern(
    name: str,
    matches: Callable[[Tensor, Tensor, Tensor], Tensor],
    becomes: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: tuple[int, ...],
    weight: tuple[int, ...],
) -> Pattern:
    # A size of 1 stands for any: one row or several, one token for all of its experts or one each.
    example: Example = {"x": (1, *x), "weight": (_EXPERTS, *weight), "expert": torch.tensor([0, 3, 8, -1, 3])}
    return Pattern(name, "experts", matches, becomes, example, _one_matrix_each)


PATTERNS = (
    _pattern("experts.columns", _matrix_times_columns, _columns, (_IN, 1), (_OUT, _IN)),
    _pattern("experts.rows", _rows_times_matrix, _rows_of_transposed, (1, _IN), (_IN, _OUT)),
    _pattern("experts.rows.transposed", _rows_times_transposed, _rows, (1, _IN), (_OUT, _IN)),
    Pattern(
        name="experts.all_for_one",
        block="experts",
        matches=_all_run_for_one,
        becomes=_one_runs,
        example={
            "x": (5, _IN),
            "scores": (5, _EXPERTS),
            "gate_up": (_EXPERTS, _IN, 2 * _OUT),
            "down": (_EXPERTS, _OUT, _IN),
        },
    ),
)
