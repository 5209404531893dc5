"""Linear layers of experts on the device: the rows of the chosen matrices are looked up, or every expert is run."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.lowering.device import device_operations

# Rows that one lookup writes as float32; what a delegate or the arena must hold beside the weights.
_LOOKUP_BYTES = 64 << 20


def expert_linear(x: Tensor, weight: Tensor, expert: Tensor, width: int) -> Tensor:
    """As ops.expert_linear: EMBEDDING_LOOKUP reads, and widens where they are quantised, the chosen rows alone."""
    pairs, columns = x.shape
    experts = weight.shape[0] // width
    expert = torch.where(expert < 0, expert + experts, expert).to(torch.int32)
    step = max(1, _LOOKUP_BYTES // (4 * width * columns))
    parts = [_looked_up(x[i : i + step], weight, expert[i : i + step], width) for i in range(0, pairs, step)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _looked_up(x: Tensor, weight: Tensor, expert: Tensor, width: int) -> Tensor:
    pairs, columns = x.shape
    rows = expert[:, None] * width + torch.arange(width, dtype=torch.int32)
    matrices = F.embedding(rows.reshape(-1), weight).reshape(pairs, width, columns)
    product: Tensor = device_operations().batch_matmul(x[:, None, :], matrices, False, True)
    return product.reshape(pairs, width)
