"""A file in the interpreter, called as the runtime calls it: chunks through its signatures, the states handed on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoconvert.ir.interface import Role
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.litert import quiet
from autoconvert.runtime.chunks import Chunk, chunk, plan_prefill


class Runner:
    """A `.tflite` that reads a text in chunks and continues it token by token.

    What a signature takes and gives under one name is a state; the one that gives logits decodes.
    """

    def __init__(self, interpreter: Any, context: int) -> None:
        self._names = CPU.port_names
        self._context = context
        self._signatures = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        self._inputs = {name: runner.get_input_details() for name, runner in self._signatures.items()}
        gives = {name: runner.get_output_details() for name, runner in self._signatures.items()}
        (self._decode,) = (name for name, outputs in gives.items() if self._names[Role.LOGITS] in outputs)
        self._kept = self._inputs[self._decode].keys() & gives[self._decode].keys()
        chunks = {name: d[self._names[Role.INPUT_POS]]["shape"][0] for name, d in self._inputs.items()}
        self._prefill = {int(length): name for name, length in chunks.items() if name != self._decode}
        self.prefill_lengths = sorted(self._prefill)
        self.reset()

    def reset(self) -> None:
        """Forgets what was run; states are zero again."""
        details = self._inputs[self._decode]
        self._states: Mapping[str, Any] = {
            name: np.zeros(d["shape"], d["dtype"]) for name, d in details.items() if name in self._kept
        }
        self.position = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        """Takes `tokens` in as the runtime's planner would split them."""
        sizes = plan_prefill(len(tokens), self.prefill_lengths, self._context - self.position)
        start = 0
        for real, size in sizes:
            part = chunk(tokens[start : start + real], self.position, size, self._context)
            self._call(self._prefill.get(size, self._decode), part)
            start += real

    def decode(self, token: int) -> Tensor:
        """The logits float32 [vocabulary] that follow `token` at the current position."""
        outputs = self._call(self._decode, chunk([token], self.position, 1, self._context))
        return torch.from_numpy(np.array(outputs[self._names[Role.LOGITS]])).reshape(-1)

    def _call(self, signature: str, part: Chunk) -> Mapping[str, Any]:
        wanted = self._inputs[signature]
        given = {self._names[role]: value.numpy() for role, value in part.inputs.items()}
        inputs = {name: value.astype(wanted[name]["dtype"]) for name, value in given.items() if name in wanted}
        outputs: Mapping[str, Any] = self._signatures[signature](**inputs, **self._states)
        self._states = {name: outputs[name] for name in self._states}
        self.position += part.real
        return outputs


@contextmanager
def open_file(path: Path, context: int) -> Iterator[Runner]:
    """Opens a `.tflite` in ai-edge-litert's interpreter with two threads."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(str(path), num_threads=2)
        interpreter.allocate_tensors()
        runner = Runner(interpreter, context)
    yield runner
