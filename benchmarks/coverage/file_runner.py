"""Runs a `.tflite` as LiteRT-LM runs it, written from the runtime's contract and apart from the compiler."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor

# What the runtime writes into the mask where a position may not look.
_CLOSED = np.float32(-0.7 * np.finfo(np.float32).max)
_INPUTS = frozenset({"tokens", "input_pos", "mask"})
# The size of an axis that each call decides.
_OPEN = -1


class ContractBroken(Exception):
    """The file has not the signatures that the runtime expects."""


class FileRunner:
    """Prefills and decodes with one file; states are kept from call to call, and zero at first.

    Where the file leaves lengths open, a text is read at once, and states are as long as what was read.
    """

    def __init__(self, path: Path) -> None:
        # The interpreter of the file must outlive its runners.
        self._interpreter = Interpreter(str(path), num_threads=1)
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in self._signature_names()}
        details = {name: runner.get_input_details() for name, runner in self._runners.items()}
        self._state_details = {name: d for name, d in details["decode"].items() if name not in _INPUTS}
        self._check_contract(details)
        prefills = [name for name in self._runners if name.startswith("prefill_")]
        lengths = (int(details[name]["input_pos"]["shape"][0]) for name in prefills)
        self._prefill_lengths = sorted(lengths, reverse=True)
        mask = details["decode"]["mask"]
        self._mask_type, self._context = mask["dtype"], int(mask["shape_signature"][3])
        if (self._context == _OPEN) != (_OPEN in details[next(iter(self._runners))]["tokens"]["shape_signature"]):
            raise ContractBroken("either the text or its history alone may have any length")
        self.reset()

    @property
    def is_open(self) -> bool:
        """Whether texts and histories may have any length."""
        return self._context == _OPEN

    def _signature_names(self) -> list[str]:
        names = list(self._interpreter.get_signature_list())
        if "decode" not in names or not any(name.startswith("prefill") for name in names):
            raise ContractBroken(f"the signatures are {', '.join(names)}")
        return names

    def _check_contract(self, details: dict[str, dict[str, Any]]) -> None:
        states = set(self._state_details)
        for name, inputs in details.items():
            if set(inputs) != _INPUTS | states:
                raise ContractBroken(f"{name} takes {', '.join(sorted(inputs))}")
            outputs = set(self._runners[name].get_output_details())
            if outputs != (states | {"logits"} if name == "decode" else states):
                raise ContractBroken(f"{name} returns {', '.join(sorted(outputs))}")

    def reset(self) -> None:
        """Forgets every token."""
        self._states = {name: np.zeros(d["shape"], d["dtype"]) for name, d in self._state_details.items()}
        self._position = self._history = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        """Takes `tokens` in: full chunks of the longest length that fits, the rest padded in the shortest one."""
        if self.is_open:
            self._call("prefill", list(tokens), len(tokens))
            return
        rest = list(tokens)
        while rest:
            room = self._context - self._position
            lengths = [length for length in self._prefill_lengths if length <= room]
            if not lengths:
                raise ContractBroken(f"{len(rest)} tokens are left and no prefill signature fits {room} positions")
            length = next((length for length in lengths if length <= len(rest)), lengths[-1])
            self._call(f"prefill_{length}", rest[:length], length)
            rest = rest[length:]

    def decode(self, token: int) -> Tensor:
        """The logits float32 [vocabulary] that follow `token`."""
        return torch.from_numpy(np.array(self._call("decode", [token], 1)["logits"])).reshape(-1)

    def _call(self, signature: str, tokens: list[int], length: int) -> dict[str, Any]:
        padding = [0] * (length - len(tokens))
        positions = list(range(self._position, self._position + len(tokens)))
        history = self._lengthen(self._position + length) if self.is_open else self._context
        is_seen = np.zeros((1, 1, length, history), bool)
        for row, position in enumerate(positions):
            is_seen[0, 0, row, : position + 1] = True
        outputs: dict[str, Any] = self._runners[signature](
            tokens=np.array([tokens + padding], np.int32),
            input_pos=np.array(positions + padding, np.int32),
            mask=is_seen if self._mask_type == np.bool_ else np.where(is_seen, np.float32(0), _CLOSED),
            **self._states,
        )
        self._states = {name: outputs[name] for name in self._states}
        self._position += len(tokens)
        return outputs

    def _lengthen(self, history: int) -> int:
        """Makes room for `history` positions in the states, which never shrink; gives for how many there is."""
        self._history = max(self._history, history)
        for name, state in self._states.items():
            signature = self._state_details[name]["shape_signature"]
            shape = [self._history if size == _OPEN else size for size in signature]
            longer = np.zeros(shape, state.dtype)
            longer[tuple(slice(min(sizes)) for sizes in zip(state.shape, shape, strict=True))] = state
            self._states[name] = longer
        return self._history
