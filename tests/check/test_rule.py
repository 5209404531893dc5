"""A rule of normalisation is checked where it applies: right ones pass, once per structure, wrong ones are named."""

from collections.abc import Callable

import torch
from torch import Tensor

from autoconvert.check.rule import RuleCheck
from autoconvert.passes.canonicalize import canonicalize
from tests import models
from tests.models import Decoder

aten = torch.ops.aten

Function = Callable[[Decoder, Tensor], Tensor]


def checked(mix: Function) -> RuleCheck:
    program = models.traced(Decoder(mix))
    check = RuleCheck()
    canonicalize(program.graph, program.weights, check)
    return check
