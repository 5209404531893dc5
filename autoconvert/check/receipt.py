"""The receipt of a bundle against what lies there: its sections against the bytes, its tensors against the model's."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from autoconvert.check.verdict import RECEIPT, Verdict, failed, not_checked, passed
from autoconvert.errors import InputError
from autoconvert.packaging.litertlm import Section, section_digest
from autoconvert.packaging.receipt import LaterFormat, Receipt, described_sections, label_of, read_receipt
from autoconvert.source.source import Source
from autoconvert.source.tensors import StoredTensor, checkpoint_of, dtype_name
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights, TensorWeights
from autoconvert.system.hashing import digest_of

_FLOATS = {str(dtype).removeprefix("torch."): dtype for dtype in FLOAT_DTYPES}
_NAMED = 3
_LONGEST_NAME = 100


def verdict_of_receipt(bundle: Path, sections: Sequence[Section], source: Source) -> Verdict:
    """Whether `bundle`, of these `sections`, is as its receipt says, and was made of the tensors of `source`.

    A bundle without a receipt, or with one that is not understood, is not checked. Raises InputError or MachineError
    where the tensors of `source` cannot be read.
    """
    try:
        receipt = read_receipt(bundle, sections)
        if receipt is None:
            return not_checked(RECEIPT, "it has none")
        wrong = list(_differing_sections(receipt, bundle, sections))
    except LaterFormat as error:
        return not_checked(RECEIPT, error.message)
    except InputError as error:
        return failed(RECEIPT, error.message)
    compared = compare_tensors(receipt, checkpoint_of(source))
    count, origin = len(receipt.tensors), _origin(receipt)
    told = f"of the {count} tensors that it was made of, from {origin}"
    if compared.differing:
        names = _listed(compared.differing)
        wrong.append(f"{told}, the model has {len(compared.differing)} with other values: {names}")
    # A module in memory may hold the same numbers under other names, stacked or split.
    one_layout = "module" not in (receipt.source.kind, source.origin.kind)
    if compared.absent and one_layout:
        wrong.append(f"{told}, the model lacks {len(compared.absent)}: {_listed(compared.absent)}")
    if wrong:
        return failed(RECEIPT, "; ".join(wrong))
    if compared.absent:
        why = f"the model does not store {len(compared.absent)} in that form: {_listed(compared.absent)}"
        return not_checked(RECEIPT, f"{told}, {why}")
    checks = ", ".join(_shown(check.name) for check in receipt.checks if check.passed) or "nothing"
    version = _shown(receipt.versions.get("autoconvert", "of no known version"))
    return passed(
        RECEIPT,
        f"{len(receipt.sections)} sections and {count} tensors are those that autoconvert {version} read of {origin} "
        f"and wrote; it had checked {checks}",
    )


@dataclass
class Compared:
    """Names of tensors: those whose numbers are others, and those that are not there."""

    differing: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def compare_tensors(receipt: Receipt, checkpoint: StoredWeights) -> Compared:
    """The tensors of `receipt` that `checkpoint` has not, by its names; one under another name is there."""
    compared = Compared()
    names = set(checkpoint.names())
    for name, tensor in receipt.tensors.items():
        if name in names and not _holds(checkpoint, name, tensor):
            compared.differing.append(name)
    if absent := {name: tensor for name, tensor in receipt.tensors.items() if name not in names}:
        compared.absent = _not_among(absent, checkpoint)
    return compared


def _not_among(wanted: dict[str, StoredTensor], checkpoint: StoredWeights) -> list[str]:
    """The names of those `wanted` that `checkpoint` has under no name."""
    kinds = defaultdict(set)
    for tensor in wanted.values():
        kinds[tensor.shape].add(tensor.dtype)
    digests = {
        (dtype, tuple(checkpoint.shape(name)), _digest_as(checkpoint, name, dtype))
        for name in checkpoint.names()
        for dtype in kinds.get(tuple(checkpoint.shape(name)), ())
    }
    return [name for name, tensor in wanted.items() if (tensor.dtype, tensor.shape, tensor.sha256) not in digests]


def _holds(checkpoint: StoredWeights, name: str, tensor: StoredTensor) -> bool:
    if tuple(checkpoint.shape(name)) != tensor.shape:
        return False
    return _digest_as(checkpoint, name, tensor.dtype) == tensor.sha256


def _digest_as(checkpoint: StoredWeights, name: str, dtype: str) -> str | None:
    """The digest of a tensor's numbers in `dtype`; None where that would change one of them."""
    try:
        stored_as = dtype_name(checkpoint, name)
    except InputError:
        # A kind of numbers that nothing is converted from.
        return None
    if dtype == stored_as:
        return digest_of(checkpoint.pieces(name))
    if dtype not in _FLOATS:
        return None
    stored = checkpoint.read(name)
    converted = stored.to(_FLOATS[dtype])
    if not torch.equal(converted.to(stored.dtype), stored):
        return None
    return digest_of(TensorWeights({name: converted}).pieces(name))


def _differing_sections(receipt: Receipt, bundle: Path, sections: Sequence[Section]) -> list[str]:
    there = list(described_sections(sections))
    kinds, said = [label_of(section) for section in there], [section.kind for section in receipt.sections]
    if kinds != said:
        return [f"its sections are {_listed(kinds)}, and {_listed(said)} were written"]
    return [
        f"section {_shown(written.kind)} is not as it was written"
        for section, written in zip(there, receipt.sections, strict=True)
        if section_digest(bundle, section) != written.sha256
    ]


def _origin(receipt: Receipt) -> str:
    name, revision = _shown(receipt.source.name), receipt.source.revision
    at = f" at {_shown(revision)}" if revision else ""
    return f"{receipt.source.kind} {name}{at}" if receipt.source.kind != "demo" else name


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(_shown, names[:_NAMED]))
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown or "none"


def _shown(text: str) -> str:
    """Text from outside as a line shows it: what cannot be printed escaped, and no more than a name is long."""
    plain = text if text.isprintable() else repr(text)[1:-1]
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[:_LONGEST_NAME]}…"
