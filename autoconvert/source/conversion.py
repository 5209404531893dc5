"""From the names in a checkpoint to the names in a transformers module.

transformers 5 keeps, for each architecture, the renamings and the stackings that lead from published
checkpoints to its modules. It applies them while it loads a whole model; the functions behind that are not a
public interface. This file follows `core_model_loading.convert_and_load_state_dict_in_model` of transformers
5.24, and is tested against `from_pretrained`. No other file uses them.
"""

import copy
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    Interleave,
    MergeModulelist,
    Split,
    Transpose,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from autoconvert.errors import InputError
from autoconvert.source.derivation import Converted, Derivation, Groups, Renamed
from autoconvert.source.weights import Weights

Tensors = Mapping[str, list[torch.Tensor]]
IGNORED = "the model class ignores it"


@dataclass(frozen=True)
class Plan:
    """How each tensor of the module is made, and why other tensors of the checkpoint make none."""

    derivations: Mapping[str, Derivation]
    unmatched: Mapping[str, str]


def plan_conversion(module: nn.Module, checkpoint: Weights, mapping: Sequence[Any] | None = None) -> Plan:
    """What `from_pretrained` would load into each parameter and persistent buffer of `module`.

    `mapping` are renamings and stackings in place of those that transformers has for the module's class. Reads headers
    only. Raises InputError where tensors cannot be put together.
    """
    if not isinstance(module, PreTrainedModel):
        known = module.state_dict().keys()
        names = checkpoint.names()
        return Plan(
            {name: Renamed(name) for name in names if name in known},
            {name: "the module has no such tensor" for name in names if name not in known},
        )
    state = module.state_dict()
    transforms = get_model_conversion_mapping(module) if mapping is None else mapping
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    derivations: dict[str, Derivation] = {}
    unmatched: dict[str, str] = {}
    collected: dict[str, dict[str, list[str]]] = {}
    # Some renamings depend on what was seen before, and stacks are in this order.
    for name in sorted(checkpoint.names(), key=dot_natural_key):
        prefix = module.base_model_prefix
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:
            target, pattern = rename_source_key(name, [], [], base_model_prefix=prefix, meta_state_dict=state)
        if target not in state:
            unmatched[name] = _why_unmatched(module, target)
        elif pattern is not None:
            collected.setdefault(target, {}).setdefault(pattern, []).append(name)
        elif target in derivations:
            unmatched[name] = f"{target} is read from another tensor"
        else:
            derivations[target] = Renamed(name)
    for target, patterns in collected.items():
        converter = by_pattern[next(iter(patterns))]
        groups = {pattern: tuple(names) for pattern, names in patterns.items()}
        derivations |= _converted(module, checkpoint, target, converter, groups)
    return Plan(derivations, unmatched)


def _converted(
    module: nn.Module, checkpoint: Weights, target: str, converter: Any, groups: Groups
) -> dict[str, Derivation]:
    """The derivations of all that `converter` makes of `groups`; shapes come from running it without data."""

    def convert(tensors: Tensors) -> dict[str, torch.Tensor]:
        own = copy.deepcopy(converter)
        for pattern, values in tensors.items():
            for value in values:
                own.add_tensor(target, target, pattern, lambda value=value: value)
        made = own.convert(target, model=module, config=module.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def only(name: str) -> Callable[[Tensors], torch.Tensor]:
        return lambda tensors: convert(tensors)[name]

    def header(name: str) -> torch.Tensor:
        return torch.empty(checkpoint.shape(name), dtype=checkpoint.dtype(name), device="meta")

    try:
        made = convert({pattern: [header(name) for name in names] for pattern, names in groups.items()})
    except (RuntimeError, ValueError, KeyError, IndexError, AttributeError) as error:
        names = [name for names in groups.values() for name in names]
        raise InputError(
            f"{target} cannot be put together from {len(names)} tensors of the checkpoint "
            f"({names[0]} … {names[-1]}): {error}",
            hint="check that the checkpoint is complete and that config.json belongs to it",
        ) from error
    by_row = len(made) == 1 and _stacks_rows(converter)
    sizes = {len(names) for names in groups.values()}
    first_rows = _first_rows(converter, groups, made)
    return {
        name: Converted(groups, only(name), result, by_row and sizes == {result.shape[0]}, first_rows.get(name))
        for name, result in made.items()
    }


def _stacks_rows(converter: Any) -> bool:
    """Whether the operations stack on axis 0 and then leave that axis alone."""
    first, *rest = converter.operations
    return (
        isinstance(first, MergeModulelist)
        and first.dim == 0
        and all(
            (isinstance(operation, Concatenate | Interleave) and operation.dim >= 1)
            or (
                isinstance(operation, Transpose)
                and min(operation.dim0, operation.dim1) >= 1
                and not operation.check_dims
            )
            for operation in rest
        )
    )


def _first_rows(converter: Any, groups: Groups, made: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Where each part begins, if the one operation cuts one tensor along axis 0."""
    (operation, *rest), single = converter.operations, sum(map(len, groups.values())) == 1
    if rest or not single or not (isinstance(operation, Chunk | Split) and operation.dim == 0):
        return {}
    first_rows, row = {}, 0
    for name, part in made.items():
        first_rows[name] = row
        row += part.shape[0]
    return first_rows


def _why_unmatched(module: PreTrainedModel, target: str) -> str:
    ignored: Collection[str] = module._keys_to_ignore_on_load_unexpected or ()
    if any(re.search(pattern, target) for pattern in ignored):
        return IGNORED
    if target in dict(module.named_buffers()):
        return "the module computes it"
    return "the module has no such tensor"
