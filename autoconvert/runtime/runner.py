"""A `.tflite` called as the runtime calls it: a text in chunks through its signatures, then token by token."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.ir.interface import Role
from autoconvert.lowering.cpu import CPU
from autoconvert.runtime.chunks import Chunk, chunk, plan_prefill
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.loaded_file import LoadedFile, SignatureTypes
from autoconvert.system.remote import Died, remote

# Signatures by name: any that begins with PREFILL takes a chunk, DECODE a token; others, as for drafts, are not run.
PREFILL, DECODE = "prefill", "decode"
# An input that some files take: int32 [1, 1, 1, 7], the first position of a call and twice the one after its last.
PARAMETERS = "param_tensor"

Run = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
Signatures = tuple[Mapping[str, SignatureTypes], Run, Callable[[], None]]


class Runner:
    """Reads a text in chunks and continues it.

    `types` are the file's signatures; `run` calls one, and keeps its states; `reset` makes states zero again.
    """

    def __init__(self, types: Mapping[str, SignatureTypes], run: Run, reset: Callable[[], None]) -> None:
        self._run, self._forget = run, reset
        self._names = CPU.port_names
        self._types = types
        if DECODE not in types or self._names[Role.LOGITS] not in types[DECODE].outputs:
            raise InputError(
                f"no signature {DECODE} of the file gives logits: it has {', '.join(types) or 'none'}.",
                hint="A decoder has signatures named prefill_N and one named decode.",
            )
        self._decode = DECODE
        chunks = {name: given for name, given in types.items() if name.startswith(PREFILL)}
        self._prefill = {given.inputs[self._names[Role.INPUT_POS]].shape[0]: name for name, given in chunks.items()}
        self.prefill_lengths = sorted(self._prefill)
        self.capacity = types[self._decode].inputs[self._names[Role.MASK]].shape[-1]
        self.vocabulary = types[self._decode].outputs[self._names[Role.LOGITS]].shape[-1]
        self._first = self.position = 0

    def reset(self, position: int = 0) -> None:
        """Forgets what was run: the next token is the first of a text and stands at `position`."""
        self._forget()
        self._first = self.position = position

    def prefill(self, tokens: Sequence[int]) -> None:
        """Takes `tokens` in as the runtime's planner would split them."""
        start = 0
        for real, size in plan_prefill(len(tokens), self.prefill_lengths, self.capacity - self.position):
            self.take(tokens[start : start + real], size)
            start += real

    def take(self, tokens: Sequence[int], size: int) -> None:
        """Takes `tokens` in as one chunk of `size` slots."""
        self._call(self.signature_of(size), self._chunk(tokens, size))

    def decode(self, token: int) -> Tensor:
        """The logits float32 [vocabulary] that follow `token` at the current position."""
        outputs = self._call(self._decode, self._chunk([token], 1))
        return torch.from_numpy(outputs[self._names[Role.LOGITS]]).reshape(-1)

    def last_logits(self, tokens: Sequence[int], count: int) -> Tensor:
        """Logits [count, vocabulary] at the last positions of a text: what comes before is prefilled."""
        self.reset()
        self.prefill(tokens[:-count])
        return torch.stack([self.decode(token) for token in tokens[-count:]])

    def logits_at(self, tokens: Sequence[int], position: int) -> Tensor:
        """Logits [vocabulary] at `position` of a text: everything before is prefilled, the token there decoded."""
        return self.last_logits(tokens[: position + 1], 1)[0]

    def signature_of(self, size: int) -> str:
        """The signature that takes `size` slots where one prefills so many; otherwise the one that decodes."""
        return self._prefill.get(size, self._decode)

    def inputs_of(self, signature: str, part: Chunk) -> dict[str, Any]:
        """The inputs of a signature that are no states, by name, each as the signature has its type."""
        types = self._types[signature].inputs
        given = {self._names[role]: value.numpy() for role, value in part.inputs.items()}
        mask = self._names[Role.MASK]
        if mask in types and types[mask].dtype == np.bool_:
            given[mask] = given[mask] == 0
        begin = int(part.inputs[Role.INPUT_POS][0])
        given[PARAMETERS] = np.array([[[[begin, begin + part.real, begin + part.real, 0, 0, 0, 0]]]], np.int32)
        return {name: value for name, value in given.items() if name in types}

    def _chunk(self, tokens: Sequence[int], size: int) -> Chunk:
        return chunk(tokens, self.position, size, self.capacity, first=self._first)

    def _call(self, signature: str, part: Chunk) -> Mapping[str, Any]:
        outputs = self._run(signature, self.inputs_of(signature, part))
        self.position += part.real
        return outputs


@contextmanager
def open_file(path: Path) -> Iterator[Runner]:
    """Opens a `.tflite` in a process of its own, as `open_signatures` does, and reads it as a decoder.

    Raises InputError where it is none, RuntimeFailed as `open_signatures`.
    """
    with open_signatures(path) as signatures:
        yield Runner(*signatures)


@contextmanager
def open_signatures(path: Path) -> Iterator[Signatures]:
    """What a Runner needs of a `.tflite` in a process of its own.

    Its weights need room in the folder of temporary files.
    Raises RuntimeFailed where the runtime cannot load or run it, or dies of it.
    """
    with remote(LoadedFile, str(path)) as loaded:

        def call(method: str, *args: object) -> Any:
            try:
                return loaded.call(method, *args)
            except Died as death:
                raise RuntimeFailed(f"the runtime dies of {path}: {death}") from death
            # Names that are no text and types that numpy has not are what a broken file has.
            except (RuntimeError, ValueError, TypeError, LookupError) as error:
                raise RuntimeFailed(f"the runtime cannot run {path}: {error}") from error

        yield call("types"), lambda *args: call("run", *args), lambda: call("reset")
