"""Looking rows up on the device: EMBEDDING_LOOKUP knows tables of weights, not of whole numbers.

Parameters are named as the operation's own, whose body is called by name.
"""

import torch.nn.functional as F
from torch import Tensor


def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """As aten.embedding."""
    if weight.is_floating_point():
        return F.embedding(indices, weight)
    return weight.index_select(0, indices.reshape(-1)).reshape(*indices.shape, weight.shape[1])
