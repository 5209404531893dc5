"""A `.tflite` called as the runtime calls it: a text in chunks through its signatures, then token by token."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoconvert.ir.interface import Role
from autoconvert.lowering.cpu import CPU
from autoconvert.runtime.chunks import Chunk, chunk, plan_prefill
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.loaded_file import LoadedFile, SignatureTypes
from autoconvert.runtime.packed_weights import packed_file, packed_weights
from autoconvert.runtime.signatures import DECODE, TextSignatures
from autoconvert.system.remote import Died, remote

Run = Callable[[str, Mapping[str, Any], int], Mapping[str, Any]]
Signatures = tuple[Mapping[str, SignatureTypes], Run, Callable[[], None]]


class Runner(TextSignatures):
    """Reads a text in chunks and continues it.

    `types` are the file's signatures; `run` calls one, and keeps its states; `reset` makes states zero again.
    """

    def __init__(self, types: Mapping[str, SignatureTypes], run: Run, reset: Callable[[], None]) -> None:
        super().__init__(types)
        self._run, self._forget = run, reset
        self._first = self.position = self._history = 0

    def reset(self, position: int = 0) -> None:
        """Forgets what was run: the next token is the first of a text and stands at `position`."""
        self._forget()
        self._first = self.position = position
        self._history = 0

    def rewind(self, position: int) -> None:
        """The next token stands at `position`, whose slot and those behind it are written again; states stay."""
        self.position = position

    def prefill(self, tokens: Sequence[int]) -> None:
        """Takes `tokens` in as the runtime's planner would split them: as one chunk where that may have any length."""
        if self.capacity is None:
            if tokens:
                self.take(tokens, len(tokens))
            return
        start = 0
        for real, size in plan_prefill(len(tokens), self.prefill_lengths, self.capacity - self.position):
            self.take(tokens[start : start + real], size)
            start += real

    def take(self, tokens: Sequence[int], size: int) -> None:
        """Takes `tokens` in as one chunk of `size` slots."""
        self._call(self.signature_of(size), self._chunk(tokens, size))

    def decode(self, token: int) -> Tensor:
        """The logits float32 [vocabulary] that follow `token` at the current position."""
        outputs = self._call(DECODE, self._chunk([token], 1))
        return torch.from_numpy(outputs[CPU.port_names[Role.LOGITS]]).reshape(-1)

    def logits_at(self, tokens: Sequence[int], position: int) -> Tensor:
        """Logits [vocabulary] at `position` of a text: everything before is prefilled, the token there decoded."""
        self.reset()
        self.prefill(tokens[:position])
        return self.decode(tokens[position])

    def _chunk(self, tokens: Sequence[int], size: int) -> Chunk:
        # States never shrink, as when a text is continued from an earlier position.
        self._history = max(self._history, self.history(self.position + size))
        return chunk(tokens, self.position, size, self._history, first=self._first)

    def _call(self, signature: str, part: Chunk) -> Mapping[str, Any]:
        outputs = self._run(signature, self.inputs_of(signature, part), self._history)
        self.position += part.real
        return outputs


@contextmanager
def open_file(path: Path) -> Iterator[Runner]:
    """Opens a `.tflite` in a process of its own, as `start_file` does, and waits for it."""
    with start_file(path) as opened:
        yield opened()


@contextmanager
def start_file(path: Path, packed: Path | None = None) -> Iterator[Callable[[], Runner]]:
    """Opens a `.tflite` in a process of its own, meanwhile; what is yielded waits for it, and reads it as a decoder.

    That raises InputError where the file is none, RuntimeFailed as `open_signatures`. `packed` is the folder of its
    packed weights.
    """
    with start_signatures(path, packed) as opened:
        yield cache(lambda: Runner(*opened()))


@contextmanager
def open_signatures(path: Path) -> Iterator[Signatures]:
    """What a Runner needs of a `.tflite` in a process of its own.

    Its weights need room in the folder of temporary files.
    Raises RuntimeFailed where the runtime cannot load or run it, or dies of it.
    """
    with start_signatures(path) as opened:
        yield opened()


@contextmanager
def start_signatures(path: Path, packed: Path | None = None) -> Iterator[Callable[[], Signatures]]:
    """The same, opened meanwhile: what is yielded waits for it."""
    with (
        packed_weights(packed) as folder,
        remote(LoadedFile, str(path), str(packed_file(folder))) as loaded,
    ):

        def call(method: str, *args: object) -> Any:
            try:
                return loaded.call(method, *args)
            except Died as death:
                raise RuntimeFailed(f"the runtime dies of {path}: {death}") from death
            # Names that are no text and types that numpy has not are what a broken file has.
            except (RuntimeError, ValueError, TypeError, LookupError) as error:
                raise RuntimeFailed(f"the runtime cannot run {path}: {error}") from error

        yield lambda: (call("types"), lambda *args: call("run", *args), lambda: call("reset"))
