"""Checks the file itself in the interpreter: prefill a prefix, decode at its end, compare with the source."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoconvert.lowering.litert import quiet
from autoconvert.runtime.chunks import Chunk, chunk, plan_prefill


class Runner:
    """A `.tflite` run as the runtime runs it: chunks through its signatures, the states handed on."""

    def __init__(self, interpreter: Any, context: int) -> None:
        self._signatures = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        self._context = context
        self.prefill_lengths = sorted(int(n.removeprefix("prefill_")) for n in self._signatures if n != "decode")
        self._inputs = {name: runner.get_input_details() for name, runner in self._signatures.items()}
        self.reset()

    def reset(self) -> None:
        """Forgets what was run; states are zero again."""
        details = self._inputs["decode"]
        self._states: Mapping[str, Any] = {
            name: np.zeros(d["shape"], d["dtype"]) for name, d in details.items() if name.startswith("kv_cache")
        }
        self.position = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        """Takes `tokens` in as the runtime's planner would split them."""
        sizes = plan_prefill(len(tokens), self.prefill_lengths, self._context - self.position)
        start = 0
        for real, size in sizes:
            part = chunk(tokens[start : start + real], self.position, size, self._context)
            self._call("decode" if size not in self.prefill_lengths else f"prefill_{size}", part)
            start += real

    def decode(self, token: int) -> Tensor:
        """The logits float32 [vocabulary] that follow `token` at the current position."""
        outputs = self._call("decode", chunk([token], self.position, 1, self._context))
        return torch.from_numpy(np.array(outputs["logits"])).reshape(-1)

    def _call(self, signature: str, part: Chunk) -> Mapping[str, Any]:
        inputs = {
            "tokens": part.tokens.numpy().astype(np.int32),
            "input_pos": part.input_pos.numpy(),
            "mask": part.mask.numpy(),
            **self._states,
        }
        wanted = self._inputs[signature]
        outputs: Mapping[str, Any] = self._signatures[signature](**{k: v for k, v in inputs.items() if k in wanted})
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


def logits_at(runner: Runner, tokens: Sequence[int], position: int) -> Tensor:
    """Logits [vocabulary] at `position`: everything before is prefilled, the token there decoded."""
    runner.reset()
    runner.prefill(tokens[:position])
    return runner.decode(tokens[position])


def telling_positions(lengths: Sequence[int], context: int) -> list[int]:
    """Positions around which chunks are empty, full, part-filled, several in a row, and at the end of the context."""
    longest, shortest = max(lengths), min(lengths)
    around = {0, 1, shortest - 1, shortest, shortest + 1, longest + 1, longest + shortest + 2, context - 1}
    return sorted(p for p in around if 0 <= p < context)
