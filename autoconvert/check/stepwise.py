"""The linked file run in float32: its own operations in the runtime's kernels, products with its weights here.

All calls go through the file together, so that each weight is read once, a few rows of a large one at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoconvert.check.step_weights import StepWeights
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.loaded_file import Array
from autoconvert.runtime.signatures import TextSignatures
from autoconvert.runtime.stepwise import Call, Finished, Needs, StepwiseFile, Waits
from autoconvert.source.streamed import TILE
from autoconvert.system.remote import Died, Remote, remote

# Bytes in float32: what is smaller is kept, since every layer or call asks for it again.
_SMALL = 1 << 16


@contextmanager
def open_stepwise(path: Path, weights: StepWeights) -> Iterator["Stepwise"]:
    """Opens a linked file in a process of its own, which asks for its `weights`."""
    with remote(StepwiseFile, str(path), list(weights.names)) as loaded:
        yield Stepwise(path, loaded, weights)


class Stepwise:
    """A file whose signatures are called one after the other, each with the states that the one before left."""

    def __init__(self, path: Path, loaded: Remote, weights: StepWeights) -> None:
        self._path, self._loaded, self._weights = path, loaded, weights
        self._kept: dict[str, Tensor] = {}

    def signatures(self) -> TextSignatures:
        """How texts are read by the file's signatures."""
        return TextSignatures(self._ask("types"))

    def run(self, chains: Sequence[Sequence[Call]]) -> list[list[Mapping[str, Array]]]:
        """What each call gives, states apart; calls take all inputs that are no states, which begin as zeros.

        Raises RuntimeFailed where the runtime dies of it or refuses.
        """
        self._ask("begin", [list(chain) for chain in chains])
        calls = [call for chain in chains for call in chain]
        finished: dict[int, Finished] = {}
        needs: dict[int, Needs] = {}
        # What was needed before comes first: who falls behind catches up, and then shares weights with the others.
        order: dict[tuple[str, bool, bool], int] = {}
        waiting = list(range(len(calls)))
        while len(finished) < len(calls):
            waiting = [number for number in waiting if not self._advance(number, None, needs, finished)]
            if not needs:
                continue
            for need in needs.values():
                order.setdefault(_key(need), len(order))
            first = min(map(_key, needs.values()), key=order.__getitem__)
            group = sorted(number for number, need in needs.items() if _key(need) == first)
            for number, given in zip(group, self._given([needs.pop(n) for n in group]), strict=True):
                if not self._advance(number, given, needs, finished):
                    waiting.append(number)
            waiting.sort()
        outputs = (finished[number].outputs for number in range(len(calls)))
        return [list(islice(outputs, len(chain))) for chain in chains]

    def _advance(
        self, number: int, given: Array | None, needs: dict[int, Needs], finished: dict[int, Finished]
    ) -> bool:
        match self._ask("advance", number, given):
            case Waits():
                return False
            case Finished() as end:
                finished[number] = end
            case Needs() as wanted:
                needs[number] = wanted
        return True

    def _given(self, needs: Sequence[Needs]) -> list[Array]:
        """What several runs need of one weight in one way."""
        name = needs[0].weight
        if needs[0].x is not None:
            rows = [torch.from_numpy(need.x.reshape(-1, need.x.shape[-1])) for need in needs if need.x is not None]
            products = self._product(name, torch.cat(rows))
            return [part.numpy() for part in torch.split(products, [len(part) for part in rows])]
        if needs[0].indices is not None:
            return [self._rows(name, need.indices) for need in needs if need.indices is not None]
        return [self._whole(name).numpy()] * len(needs)

    def _product(self, name: str, x: Tensor) -> Tensor:
        weights, shape = self._weights, self._weights.shape(name)
        if not weights.is_by_rows(name) or len(shape) != 2:
            return x @ self._whole(name).reshape(-1, x.shape[-1]).T
        rows, columns = shape
        step = max(1, TILE // (4 * columns))
        result = torch.empty(len(x), rows)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            result[:, start:stop] = x @ weights.read_rows(name, start, stop).T
        return result

    def _rows(self, name: str, indices: Array) -> Array:
        numbers = [int(index) for index in indices.reshape(-1)]
        if not self._weights.is_by_rows(name):
            return self._whole(name)[numbers].numpy()
        read = self._weights.read_rows
        distinct = {number: read(name, number, number + 1) for number in dict.fromkeys(numbers)}
        return torch.cat([distinct[number] for number in numbers]).numpy()

    def _whole(self, name: str) -> Tensor:
        if name in self._kept:
            return self._kept[name]
        value = self._weights.read(name).contiguous()
        if 4 * value.numel() <= _SMALL:
            self._kept[name] = value
        return value

    def _ask(self, method: str, *args: object) -> Any:
        try:
            return self._loaded.call(method, *args)
        except Died as death:
            raise RuntimeFailed(f"the runtime dies of {self._path}: {death}") from death
        except (RuntimeError, ValueError) as error:
            raise RuntimeFailed(f"the runtime cannot run {self._path} step by step: {error}") from error


def _key(need: Needs) -> tuple[str, bool, bool]:
    """What several runs need at once: a weight, and how."""
    return need.weight, need.x is not None, need.indices is not None
