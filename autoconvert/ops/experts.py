"""Mixtures of experts: linear layers of which each row of the input takes its own."""

import torch.nn.functional as F
from torch import Tensor


def expert_linear(x: Tensor, weight: Tensor, expert: Tensor, width: int) -> Tensor:
    """One linear layer for each row (Shazeer et al., 2017): y[i] = W[expert[i]] · x[i].

    `x` [pairs, in]; `weight` [experts · width, in], the matrices [width, in] of all experts below each other;
    `expert` int [pairs], negative ones count from the last. Gives [pairs, width].
    """
    matrices = weight.reshape(-1, width, weight.shape[1])
    result = x.new_empty(x.shape[0], width)
    for number in set(expert.tolist()):
        rows = expert == number
        result[rows] = F.linear(x[rows], matrices[number])
    return result


def expert_linear_shape(x: Tensor, weight: Tensor, expert: Tensor, width: int) -> Tensor:
    """A value of the shape and type that `expert_linear` gives: which experts there are is not known in a trace."""
    return x.new_empty(x.shape[0], width)
