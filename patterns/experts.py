"""Experts: for each pair of a token and an expert, the expert's matrix times the token."""

import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.pattern import Example, Pattern, tensor

_PAIRS, _EXPERTS, _OUT, _IN = 5, 9, 22, 14


def _matrix_times_column(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return torch.bmm(weight[expert], x.unsqueeze(-1)).squeeze(-1)


def _row_times_transposed(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return torch.bmm(x.unsqueeze(1), weight[expert]).squeeze(1)


def _becomes(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    result: Tensor = ops.expert_linear(x, weight.flatten(0, 1), expert, weight.shape[1])
    return result


def _becomes_transposed(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return _becomes(x, weight.transpose(1, 2), expert)


def _one_matrix_each(x: Tensor, weight: Tensor, expert: Tensor) -> str | None:
    if weight.ndim == 3 and x.ndim == 2 and expert.ndim == 1:
        return None
    return f"weights of rank {weight.ndim} are picked for rows of rank {x.ndim} by numbers of rank {expert.ndim}"


def _example(*weight: int) -> Example:
    return {"x": tensor(_PAIRS, _IN), "weight": tensor(_EXPERTS, *weight), "expert": torch.tensor([0, 3, 8, -1, 3])}


PATTERNS = (
    Pattern(
        name="expert_linear",
        block="experts",
        matches=_matrix_times_column,
        becomes=_becomes,
        example=lambda: _example(_OUT, _IN),
        guard=_one_matrix_each,
    ),
    Pattern(
        name="expert_linear.transposed",
        block="experts",
        matches=_row_times_transposed,
        becomes=_becomes_transposed,
        example=lambda: _example(_IN, _OUT),
        guard=_one_matrix_each,
    ),
)
