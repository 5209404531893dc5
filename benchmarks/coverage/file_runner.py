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


class ContractBroken(Exception):
    """The file has not the signatures that the runtime expects."""


class FileRunner:
    """Prefills and decodes with one file; states are kept from call to call, and zero at first."""

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
        self._mask_type, self.context = mask["dtype"], int(mask["shape"][3])
        self.reset()

    def _signature_names(self) -> list[str]:
        names = list(self._interpreter.get_signature_list())
        if "decode" not in names or not any(name.startswith("prefill_") for name in names):
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
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        """Takes `tokens` in: full chunks of the longest length that fits, the rest padded in the shortest one."""
        rest = list(tokens)
        while rest:
            room = self.context - self._position
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
        is_open = np.zeros((1, 1, length, self.context), bool)
        for row, position in enumerate(positions):
            is_open[0, 0, row, : position + 1] = True
        outputs: dict[str, Any] = self._runners[signature](
            tokens=np.array([tokens + padding], np.int32),
            input_pos=np.array(positions + padding, np.int32),
            mask=is_open if self._mask_type == np.bool_ else np.where(is_open, np.float32(0), _CLOSED),
            **self._states,
        )
        self._states = {name: outputs[name] for name in self._states}
        self._position += len(tokens)
        return outputs
