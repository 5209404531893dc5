"""What a model's tables will be used for, before it is traced: looked up, multiplied with, or both."""

from collections.abc import Mapping

from torch import nn

from autoconvert.quantization.recipe import HEAD, LOOKED_UP, MULTIPLIED, Use


def expected_uses(module: nn.Module) -> Mapping[str, frozenset[Use]]:
    """The uses of each parameter, by every name that it has.

    What an nn.Embedding holds is looked up, and multiplied with as well where another module holds it too. Of a stack
    of tables, such as those of experts, one is looked up at a time. A table with as many rows as an embedding is taken
    for the head.
    """
    holders: dict[int, list[nn.Module]] = {}
    for held in module.modules():
        for parameter in held.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(held)
    looked_up = {key for key, held in holders.items() if any(isinstance(each, nn.Embedding) for each in held)}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    rows = {len(each) for each in parameters.values() if id(each) in looked_up}

    def uses(parameter: nn.Parameter) -> frozenset[Use]:
        is_multiplied = not all(isinstance(each, nn.Embedding) for each in holders[id(parameter)])
        is_head = is_multiplied and parameter.dim() == 2 and len(parameter) in rows
        is_looked_up = id(parameter) in looked_up or parameter.dim() > 2
        found = {LOOKED_UP: is_looked_up, MULTIPLIED: is_multiplied, HEAD: is_head}
        return frozenset(use for use, has in found.items() if has)

    return {name: uses(parameter) for name, parameter in parameters.items()}
