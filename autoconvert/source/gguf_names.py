"""From the tensors of a GGUF file to those of a transformers module, and from its settings to a configuration.

transformers knows, for each architecture, which tensor of a GGUF file is which of the module's, and what llama.cpp has
done to its numbers: rows of rotary projections in another order, norms with their one. It applies that while it loads a
whole model; the functions behind it are not a public interface. This file follows transformers 5.24:
`load_gguf_checkpoint` of `modeling_gguf_pytorch_utils` and, for the architectures of `integrations.gguf`,
`GgufHfQuantizer`. It is tested against `from_pretrained(…, gguf_file=…)`. No other file uses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from transformers.integrations.gguf import get_gguf_conversion_mapping, is_gguf_arch_supported
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from autoconvert.source.conversion import Plan, plan_conversion
from autoconvert.source.derivation import Derivation, Renamed
from autoconvert.source.weights import Weights

Numbers = npt.NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]

_NO_PLACE = "the module has no such tensor"
# Sizes of the axes after the first at which the rows of a stack are tried one by one.
_THIN = 4


def plan_gguf(module: PreTrainedModel, checkpoint: Weights, architecture: str, settings: Mapping[str, Any]) -> Plan:
    """What `from_pretrained` would load into each parameter and persistent buffer of `module`.

    `architecture` is the file's name for it, `settings` what transformers reads in the file. Reads headers only.
    """
    if is_gguf_arch_supported(architecture):
        return plan_conversion(module, checkpoint, get_gguf_conversion_mapping(architecture, module.config))
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=dict(settings))
    process = _Process(processor, get_gguf_hf_weights_map(module, processor))
    known = module.state_dict().keys()
    derivations: dict[str, Derivation] = {}
    made_of: dict[str, dict[str, tuple[int, ...]]] = {}
    unmatched: dict[str, str] = {}
    for name in checkpoint.names():
        shape = checkpoint.shape(name)
        # Experts are the first axis of a stack, and one shows what all become.
        probe = np.broadcast_to(np.float32(0), (1, *shape[1:]) if len(shape) > 2 else shape)
        made = {target: result for target, result in process({name: probe}).items() if target in known}
        for target, result in made.items():
            made_of.setdefault(target, {})[name] = shape
            if result is probe:
                derivations[target] = Renamed(name)
        if not made:
            unmatched[name] = _NO_PLACE
    for target, shapes in made_of.items():
        if len(shapes) > 1 or target not in derivations:
            derivations[target] = Processed(process, target, shapes)
    return Plan(derivations, unmatched)


@dataclass(frozen=True)
class _Process:
    """What transformers' `processor` makes of tensors of a file; `places` are the module's names for them."""

    processor: Any
    places: Mapping[str, str]

    def __call__(self, tensors: Mapping[str, Numbers]) -> dict[str, Any]:
        """By the module's names; what is not changed is the very same object."""
        made: dict[str, dict[str, Any]] = {"tensors": {}}
        for name, numbers in tensors.items():
            # Probes are no numbers of a model.
            with np.errstate(all="ignore"):
                result = self.processor.process(
                    weights=numbers, name=name, tensor_key_mapping=self.places, parsed_parameters=made
                )
            if result.name in self.places:
                made["tensors"][self.places[result.name]] = result.weights
        return made["tensors"]


@dataclass(frozen=True)
class _Form:
    """The shape of a result; row i is row `order[i]` of the one source, or is made of row i of all of a `stack`."""

    shape: tuple[int, ...]
    order: npt.NDArray[np.int64] | None = None
    is_stack: bool = False


class Processed:
    """As `Derivation`: the module's `target`, which `process` makes of tensors of the file of these `shapes`."""

    def __init__(self, process: _Process, target: str, shapes: Shapes) -> None:
        self._process, self._target, self._shapes = process, target, dict(shapes)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def shape(self, checkpoint: Weights) -> tuple[int, ...]:
        return self._form.shape

    def dtype(self, checkpoint: Weights) -> torch.dtype:
        return torch.float32

    def read(self, checkpoint: Weights) -> torch.Tensor:
        return torch.from_numpy(self._made({name: checkpoint.read(name).numpy() for name in self._shapes}))

    def read_rows(self, checkpoint: Weights, start: int, stop: int) -> torch.Tensor:
        form = self._form
        if form.order is not None and start < stop:
            rows = form.order[start:stop]
            first, last = int(rows.min()), int(rows.max())
            return checkpoint.read_rows(self.sources[0], first, last + 1)[torch.from_numpy(rows - first)]
        if form.is_stack and start < stop:
            stored = {name: checkpoint.read_rows(name, start, stop).numpy() for name in self._shapes}
            return torch.from_numpy(self._made(stored))
        return self.read(checkpoint)[start:stop].clone()

    def _made(self, tensors: Mapping[str, Numbers]) -> Numbers:
        return np.ascontiguousarray(self._process(tensors)[self._target])

    @cached_property
    def _form(self) -> _Form:
        if max(map(len, self._shapes.values())) > 2:
            return self._form_of_a_stack()
        name, shape = next(iter(self._shapes.items()))
        rows = np.arange(shape[0], dtype=np.float32).reshape(-1, *(1 for _ in shape[1:]))
        ordered = self._made(self._filled() | {name: np.broadcast_to(rows, shape)})
        if len(self._shapes) > 1 or ordered.shape != shape:
            return _Form(ordered.shape)
        columns = np.broadcast_to(np.arange(shape[-1], dtype=np.float32), shape)
        first = ordered.reshape(shape[0], -1)[:, :1]
        keeps_columns = len(shape) == 1 or np.array_equal(self._made({name: columns}), columns)
        moves_rows = np.array_equal(ordered, np.broadcast_to(first.reshape(rows.shape), shape))
        if not (keeps_columns and moves_rows and np.array_equal(np.sort(first[:, 0]), rows.reshape(-1))):
            return _Form(shape)
        return _Form(shape, order=first[:, 0].astype(np.int64))

    def _form_of_a_stack(self) -> _Form:
        """Rows of a stack are tried apart and together: few of full size, and all of a small one."""
        counts = {shape[0] for shape in self._shapes.values()}
        few = {name: (2, *shape[1:]) for name, shape in self._shapes.items()}
        thin = {name: (shape[0], *(min(size, _THIN) for size in shape[1:])) for name, shape in self._shapes.items()}
        if len(counts) == 1 and self._keeps_rows_apart(few) and self._keeps_rows_apart(thin):
            made = self._made({name: np.zeros((1, *shape[1:]), np.float32) for name, shape in self._shapes.items()})
            return _Form((*counts, *made.shape[1:]), is_stack=True)
        return _Form(self._made(self._filled()).shape)

    def _keeps_rows_apart(self, shapes: Shapes) -> bool:
        generator = np.random.default_rng(0)
        tensors = {name: generator.random(shape, np.float32) for name, shape in shapes.items()}
        try:
            together = self._made(tensors)
            apart = [
                self._made({name: numbers[row : row + 1] for name, numbers in tensors.items()})
                for row in range(len(together))
            ]
            return np.array_equal(together, np.concatenate(apart))
        except (ValueError, IndexError, RuntimeError):
            return False

    def _filled(self) -> dict[str, Numbers]:
        return {name: np.broadcast_to(np.float32(0), shape) for name, shape in self._shapes.items()}
