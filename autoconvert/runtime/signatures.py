"""The signatures of a `.tflite` that reads texts: which takes what, and how a chunk becomes their inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoconvert.errors import InputError
from autoconvert.ir.interface import Role
from autoconvert.lowering.cpu import CPU
from autoconvert.runtime.chunks import Chunk
from autoconvert.runtime.loaded_file import SignatureTypes
from autoconvert.runtime.open_shapes import OPEN

# Signatures by name: any that begins with PREFILL takes a chunk, DECODE a token; others, as for drafts, are not run.
PREFILL, DECODE = "prefill", "decode"
# An input that some files take: int32 [1, 1, 1, 7], the first position of a call and twice the one after its last.
PARAMETERS = "param_tensor"
# By how many entries the runtime lengthens states that follow the history.
_GROWTH = 16


class TextSignatures:
    """What `types`, the inputs and outputs of a file's signatures, say of how texts are read.

    `prefill_lengths` are slots of a chunk, ascending, none where a chunk may have any; `capacity` is in positions, None
    where states follow the history; `vocabulary` is in tokens. Raises InputError where the file is no decoder.
    """

    def __init__(self, types: Mapping[str, SignatureTypes]) -> None:
        self._names = CPU.port_names
        self._types = types
        if DECODE not in types or self._names[Role.LOGITS] not in types[DECODE].outputs:
            raise InputError(
                f"no signature {DECODE} of the file gives logits: it has {', '.join(types) or 'none'}.",
                hint="A decoder has signatures named prefill_N and one named decode.",
            )
        chunks = {name: given for name, given in types.items() if name.startswith(PREFILL)}
        self._prefill = {given.inputs[self._names[Role.INPUT_POS]].shape[0]: name for name, given in chunks.items()}
        self.prefill_lengths = sorted(self._prefill.keys() - {OPEN})
        slots = types[DECODE].inputs[self._names[Role.MASK]].shape[-1]
        self.capacity = None if slots == OPEN else slots
        self.vocabulary = types[DECODE].outputs[self._names[Role.LOGITS]].shape[-1]

    def signature_of(self, size: int) -> str:
        """The signature that takes `size` slots where one prefills so many; otherwise the one that decodes."""
        return self._prefill.get(size, self._prefill.get(OPEN, DECODE) if size else DECODE)

    def history(self, end: int) -> int:
        """How many entries states have in a call that ends before position `end`."""
        return -(-end // _GROWTH) * _GROWTH if self.capacity is None else self.capacity

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
