"""GPTQ: integers of 2, 3, 4 or 8 bits with a scale and a zero point for each group of inputs.

The layout is that of AutoGPTQ and GPTQModel (`gptqmodel/nn_modules/qlinear/torch.py`), which transformers loads by.
With out outputs, in inputs and b bits:

    qweight [in · b / 32, out]      int32, packed along the inputs
    qzeros  [groups, out · b / 32]  int32, packed along the outputs
    scales  [groups, out]           float16
    g_idx   [in]                    int32, the group of each input; without it, groups are of neighbours

weight[o, i] = scales[g, o] · (q[i, o] − z[g, o]) with g the group of i.
"""

from dataclasses import dataclass

import torch

from autoconvert.errors import InputError
from autoconvert.source.quantized.bits import BITS, unpack, unpack_columns
from autoconvert.source.quantized.decoding import Decoding, Parts, companion, require_dtype, require_shape, wrong_shape
from autoconvert.source.quantized.settings import Quantization
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights

# Version 1 stores zero points less one. GPTQModel's convert_gptq_v1_to_v2_format_module adds it to whole words again,
# so that a carry out of one undoes the borrow with which it wrote it; 3 bits, which lie across words, it adds to each.
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


def find(stored: StoredWeights, quantization: Quantization) -> dict[str, Decoding]:
    """The weights whose parts are stored. Raises InputError where their parts do not fit together."""
    layouts = [layout for name in ("checkpoint_format", "format") if (layout := quantization.text(name))]
    for layout in layouts:
        if layout not in ("gptq", "gptq_v2"):
            raise quantization.unsupported(f"the layout {layout}")
    for option in ("is_marlin_format", "adapter"):
        if quantization.fields.get(option):
            raise quantization.unsupported(option)
    stems = dict.fromkeys(name.rpartition(".")[0] for name in stored.names() if name.endswith((".qweight", ".qzeros")))
    return {f"{stem}.weight": _decoding(stored, stem, quantization, layouts[:1] != ["gptq_v2"]) for stem in stems}


def _decoding(stored: StoredWeights, stem: str, quantization: Quantization, is_less_one: bool) -> Decoding:
    weight = f"{stem}.weight"
    parts = {part: companion(stored, weight, f"{stem}.{part}") for part in ("qweight", "qzeros", "scales")}
    if f"{stem}.g_idx" in stored.names():
        parts["g_idx"] = f"{stem}.g_idx"
        require_dtype(stored, parts["g_idx"], torch.int32, torch.int64)
    for part in ("qweight", "qzeros"):
        require_dtype(stored, parts[part], torch.int32)
    require_dtype(stored, parts["scales"], *FLOAT_DTYPES)
    words, outputs = _matrix(stored, parts["qweight"])
    groups, zero_words = _matrix(stored, parts["qzeros"])
    # A configuration may name other bits for some modules (`dynamic`); what is stored says them of each.
    bits, rest = divmod(32 * zero_words, max(outputs, 1))
    asked = None if quantization.fields.get("dynamic") else quantization.integer("bits")
    if rest or bits not in BITS or bits != (asked or bits):
        expected = asked or " or ".join(map(str, BITS))
        raise wrong_shape(
            parts["qzeros"], (groups, zero_words), f"zero points of {expected} bits for {outputs} outputs"
        )
    inputs, rest = divmod(32 * words, bits)
    if rest or not groups or inputs < groups:
        raise wrong_shape(parts["qweight"], (words, outputs), f"numbers of {bits} bits in {groups} groups")
    require_shape(stored, parts["scales"], (groups, outputs))
    group_size = _group_size(quantization, inputs, groups)
    if "g_idx" in parts:
        require_shape(stored, parts["g_idx"], (inputs,))
    elif -(-inputs // group_size) != groups:
        raise wrong_shape(parts["scales"], (groups, outputs), f"{-(-inputs // group_size)} groups of {group_size}")
    kind = f"GPTQ, {bits} bits in groups of {group_size}"
    return Decoding(parts, (outputs, inputs), Groups(bits, groups, inputs, group_size, is_less_one).rows, kind)


@dataclass(frozen=True)
class Groups:
    """Decodes rows of a weight; `is_less_one` where zero points are stored less one."""

    bits: int
    groups: int
    inputs: int
    group_size: int
    is_less_one: bool

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        group = self._group(parts)
        values = unpack(parts.whole("qweight")[:, start:stop].T, self.bits)
        zeros = self._zeros(parts.whole("qzeros"), start, stop).T.float()
        scales = parts.whole("scales")[:, start:stop].T.float()
        return (values.float() - zeros[:, group]) * scales[:, group]

    def _zeros(self, words: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Zero points [groups, stop - start]."""
        if not self.is_less_one:
            return unpack_columns(words, self.bits, start, stop)
        if self.bits == 3:
            return (unpack_columns(words, self.bits, start, stop) + 1) & 7
        return unpack_columns(words + _ONES[self.bits], self.bits, start, stop)

    def _group(self, parts: Parts) -> torch.Tensor:
        """The group of each input."""
        if "g_idx" not in parts:
            return torch.arange(self.inputs) // self.group_size
        group = parts.whole("g_idx").long()
        if int(group.min()) < 0 or int(group.max()) >= self.groups:
            raise InputError(
                f"{parts.name('g_idx')}: names groups {int(group.min())} to {int(group.max())}, where there are "
                f"{self.groups}",
                hint="download or save the checkpoint again",
            )
        return group


def _group_size(quantization: Quantization, inputs: int, groups: int) -> int:
    """The configuration's where it fits: −1 is one group, and some modules may have others."""
    asked = quantization.integer("group_size") or -1
    asked = asked if asked > 0 else inputs
    return asked if -(-inputs // asked) == groups or not quantization.fields.get("dynamic") else -(-inputs // groups)


def _matrix(stored: StoredWeights, name: str) -> tuple[int, int]:
    if len(shape := stored.shape(name)) != 2:
        raise wrong_shape(name, shape, "a matrix")
    return shape[0], shape[1]
