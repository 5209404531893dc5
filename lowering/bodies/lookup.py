"""Looking rows up on the device: EMBEDDING_LOOKUP knows tables of weights, not of whole numbers.

Parameters are named as the operation's own, whose body is called by name.
"""

import torch.nn.functional as F
from torch import Tensor


def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """As aten.embedding."""
    if sum(size > 1 for size in indices.shape) > 1 and indices.numel() > weight.shape[0]:
        # Of a small table for each pair: EMBEDDING_LOOKUP takes one axis of indices, which is no multiple of a length.
        return weight[indices]
    if weight.is_floating_point():
        return F.embedding(indices, weight)
    return weight.index_select(0, indices.reshape(-1)).reshape(*indices.shape, weight.shape[1])
