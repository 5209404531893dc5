"""Weights that look like a model's and are nobody's: random numbers of each tensor's mean and spread.

They stand in for a checkpoint that is too large or too private to be sent, and are the same on every machine.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoconvert.errors import InputError
from autoconvert.source.derivation import Renamed
from autoconvert.source.module_weights import ModuleWeights, ties
from autoconvert.source.skeleton import set_buffer, untie
from autoconvert.source.source import Origin, Source
from autoconvert.source.weights import Weights, pieces_of

WEIGHTS = "weights.json"
BUFFERS = "buffers.safetensors"

# Numbers of a tensor that are looked at, and that are made at a time.
_SAMPLE = 1 << 18
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Look:
    """A tensor's shape and dtype, and the mean and the standard deviation of some of its rows."""

    shape: tuple[int, ...]
    dtype: str
    mean: float
    spread: float


class RandomWeights:
    """As `StoredWeights`: normal numbers by name and place alone, so that any rows are those of the whole tensor."""

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self._looks = looks

    def names(self) -> Collection[str]:
        return self._looks.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._looks[name].shape

    def dtype(self, name: str) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self._looks[name].dtype)
        return dtype

    def nbytes(self, name: str) -> int:
        return math.prod(self.shape(name)) * self.dtype(name).itemsize

    def read(self, name: str) -> Tensor:
        shape = self.shape(name)
        return self.read_rows(name, 0, shape[0]) if shape else self._rows(name, 0, 1, 1).reshape(())

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        shape = self.shape(name)
        size = math.prod(shape[1:])
        height = max(1, _BLOCK // max(size, 1))
        blocks = range(start // height, -(-stop // height))
        parts = [self._rows(name, block, height, size) for block in blocks]
        rows = torch.cat(parts) if parts else torch.empty((0, size), dtype=self.dtype(name))
        begin = start - blocks.start * height
        return rows[begin : begin + stop - start].reshape(stop - start, *shape[1:])

    def pieces(self, name: str) -> Iterator[memoryview]:
        return pieces_of(self.read(name).contiguous())

    def _rows(self, name: str, block: int, height: int, size: int) -> Tensor:
        look = self._looks[name]
        seed = int.from_bytes(hashlib.sha256(f"{name} {block}".encode()).digest()[:8], "little", signed=True)
        numbers = torch.randn((height, size), generator=torch.Generator().manual_seed(seed))
        return numbers.mul_(look.spread).add_(look.mean).to(self.dtype(name))


def write_likeness(source: Source, folder: Path) -> str:
    """Writes beside the config in `folder` what `likeness_in` needs to give a source like this one.

    Gives the reason why there can be none, where what transformers makes of the config is another module.

    Raises:
        InputError: transformers cannot make a module of it.
        Refused: the module's constructor needs weights.
    """
    # It imports transformers, which not every model needs.
    from autoconvert.source.config import build_module, read_config

    built = build_module(read_config(folder, source.trusts_code), source.trusts_code)
    if (other := _other_structure(built, source.module)) is not None:
        return f"{other} is not what its configuration makes"
    names = [name for name, _ in source.module.named_parameters() if name in source.weights.names()]
    content = {
        "untied": _untied(built, source.module),
        "tensors": {name: asdict(_look(source.weights, name)) for name in names},
    }
    (folder / WEIGHTS).write_text(json.dumps(content, indent=1) + "\n")
    given, made = dict(source.module.named_buffers()), dict(built.named_buffers())
    changed = {name: value.contiguous().clone() for name, value in given.items() if not _same(value, made[name])}
    if changed:
        save_file(changed, folder / BUFFERS)
    return ""


def likeness_in(folder: Path, name: str, trust_remote_code: bool = False) -> Source:
    """The source called `name` that `write_likeness` has written into `folder`, with random weights.

    Raises:
        InputError: a file of it is missing or damaged.
    """
    from autoconvert.source.config import build_module, read_config

    path = folder / WEIGHTS
    try:
        content = json.loads(path.read_bytes())
        looks = {key: Look(**{**look, "shape": tuple(look["shape"])}) for key, look in content["tensors"].items()}
        untied = list(map(str, content["untied"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error})", hint="Get the folder again, with all its files."
        ) from error
    config = read_config(folder, trust_remote_code)
    module = build_module(config, trust_remote_code)
    for each in untied:
        untie(module, each)
    buffers = folder / BUFFERS
    for each, value in (load_file(buffers) if buffers.is_file() else {}).items():
        set_buffer(module, each, value)
    weights = RandomWeights(looks)
    return Source(
        name=name,
        origin=Origin("folder", name),
        module=module,
        weights=ModuleWeights(module, weights, {each: Renamed(each) for each in looks}),
        config=module.config,
        folder=folder,
        is_built=True,
        checkpoint={each: weights.nbytes(each) for each in looks},
        trusts_code=trust_remote_code,
    )


def _look(weights: Weights, name: str) -> Look:
    shape = weights.shape(name)
    if shape:
        height = max(1, min(shape[0], _SAMPLE // max(math.prod(shape[1:]), 1)))
        start = (shape[0] - height) // 2
        numbers = weights.read_rows(name, start, start + height)
    else:
        numbers = weights.read(name)
    numbers = numbers.double()
    numbers = numbers[numbers.isfinite()]
    mean, spread = (float(numbers.mean()), float(numbers.std(correction=0))) if numbers.numel() else (0.0, 0.0)
    return Look(tuple(shape), str(weights.dtype(name)).removeprefix("torch."), mean, spread)


def _other_structure(one: nn.Module, other: nn.Module) -> str | None:
    """The first part, parameter or buffer by which two modules differ."""
    for found, wanted in zip(_structure(one), _structure(other), strict=True):
        if found != wanted:
            return next((name or "the module" for name in wanted if wanted[name] != found.get(name)), "the module")
    parameters = _all_parameters(one)
    tied = ((first, name) for first, *more in ties(other) for name in more)
    return next((name for first, name in tied if parameters[name] is not parameters[first]), None)


def _structure(module: nn.Module) -> tuple[dict[str, object], ...]:
    """Classes by their own names: code that comes with a model lies in another module of Python in each folder."""
    parts: dict[str, object] = {name: type(part).__qualname__ for name, part in module.named_modules()}
    parameters: dict[str, object] = {name: tuple(each.shape) for name, each in _all_parameters(module).items()}
    buffers: dict[str, object] = {name: (tuple(each.shape), each.dtype) for name, each in module.named_buffers()}
    return parts, parameters, buffers


def _all_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(remove_duplicate=False))


def _untied(built: nn.Module, given: nn.Module) -> list[str]:
    """The names that are tied in `built` alone."""
    parameters = _all_parameters(given)
    return [name for first, *more in ties(built) for name in more if parameters[name] is not parameters[first]]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
