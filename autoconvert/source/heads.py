"""Whether a checkpoint holds a language model at all: another head on the same body converts into nonsense."""

from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
)

from autoconvert.errors import InputError
from autoconvert.source.conversion import Plan

# They generate nothing and predict words all the same.
_WITH_HEAD = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES.values(), *MODEL_FOR_PRETRAINING_MAPPING_NAMES.values()}


def refuse_without_head(path: Path, config: PreTrainedConfig, module: nn.Module, plan: Plan) -> None:
    """Raise InputError where the checkpoint has no output layer and was saved by classes that have none.

    An output layer that is tied to the embedding is in no checkpoint. Then only what the configuration in `path` says
    of the class that saved it tells a language model from a classifier. A body alone that is tied needs no
    more.
    """
    head = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    if head is None:
        return
    names = [name for name, part in module.named_modules() if part is head]
    if any(f"{name}.weight" in plan.derivations for name in names):
        return
    saved_by = [str(name) for name in getattr(config, "architectures", None) or ()]
    if type(module.base_model).__name__ in saved_by and head.weight is module.get_input_embeddings().weight:  # type: ignore[operator]
        return
    if saved_by and not any(map(_may_have_head, saved_by)):
        raise InputError(
            f"{path}: the checkpoint is of {', '.join(saved_by)}, which has no language-model head, "
            "and no tensor of it is one",
            hint="pass a checkpoint that was saved by a causal language model",
        )


def _may_have_head(name: str) -> bool:
    kind: Any = getattr(transformers, name, None)
    is_known = isinstance(kind, type) and issubclass(kind, PreTrainedModel)
    return not is_known or name in _WITH_HEAD or bool(kind.can_generate())
