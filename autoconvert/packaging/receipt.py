"""What a file says of itself: of what it was made, by what, how it was checked, and the hashes of all of it.

A receipt is JSON in a section of the bundle that the runtime passes over. It tells that a file, or the model beside it,
is another one than it was; it is no signature, and who changes a file may write it a new one.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from autoconvert.errors import InputError
from autoconvert.packaging.litertlm import RECEIPT, Section, read_section, read_sections, section_digest, write_section
from autoconvert.source.source import KINDS, Origin
from autoconvert.source.tensors import StoredTensor

FORMAT = 1
# Of what follows once the bundle is written: its sections, and the result of its own check.
_SLACK = 16 << 10
_ROOM_UNIT = 16 << 10
_LARGEST = 256 << 20
_DIGEST = re.compile("[0-9a-f]{64}")
_ANEW, _UPDATE = "Convert the model again.", "Use a later version of autoconvert."

Part = TypeVar("Part")


class LaterFormat(InputError):
    """A receipt of a format that is not known here."""


@dataclass(frozen=True)
class Checked:
    """A check: what it found, or why it did not run."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class SectionDigest:
    """A part of a file in its order: its kind, its size in bytes, and the SHA-256 of its content, in hex."""

    kind: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """`tensors` are those of the source that went into the file, by the names of its checkpoint."""

    format: int = field(default=FORMAT, kw_only=True)
    source: Origin
    settings: dict[str, Any]
    versions: dict[str, str]
    checks: tuple[Checked, ...]
    sections: tuple[SectionDigest, ...]
    tensors: dict[str, StoredTensor]


def room_for(receipt: Receipt) -> int:
    """Bytes of a section that holds `receipt`, also when its sections and another check are added."""
    return -(-(len(as_json(receipt)) + _SLACK) // _ROOM_UNIT) * _ROOM_UNIT


def as_json(receipt: Receipt) -> bytes:
    return json.dumps(dataclasses.asdict(receipt)).encode()


def label_of(section: Section) -> str:
    """How a section is called: a model by the runtime's name for it, any other by its kind."""
    return section.model or section.kind


def described_sections(sections: Sequence[Section]) -> Iterator[Section]:
    """Those that a receipt describes: all but itself."""
    return (section for section in sections if section.name != RECEIPT)


def write_receipt(bundle: Path, receipt: Receipt, known: Mapping[str, str]) -> Receipt:
    """Fills the section of a bundle that is left for a receipt with `receipt` and the digests of the other sections.

    `known` are digests by the kind of a section, which is then not read again. Gives the receipt that was written.

    Raises:
        InputError: `bundle` has no such section.
        MachineError: the system refuses the write.
    """
    sections = read_sections(bundle)
    place = next((section for section in sections if section.name == RECEIPT), None)
    if place is None:
        raise InputError(f"{bundle} has no room for a receipt", hint=_ANEW)

    def described(section: Section) -> SectionDigest:
        digest = known.get(section.kind) or section_digest(bundle, section)
        return SectionDigest(label_of(section), section.size, digest)

    found = tuple(map(described, described_sections(sections)))
    whole = dataclasses.replace(receipt, sections=found)
    write_section(bundle, place, as_json(whole))
    return whole


def read_receipt(bundle: Path, sections: Sequence[Section]) -> Receipt | None:
    """The receipt in `bundle`, which has these `sections`; None where there is none.

    Raises:
        LaterFormat: it is of a format that is not known here.
        InputError: there are several, or what is there is none.
    """
    places = [section for section in sections if section.name == RECEIPT]
    if not places:
        return None
    if len(places) > 1:
        raise InputError(f"there are {len(places)} receipts", hint=_ANEW)
    if places[0].size > _LARGEST:
        raise InputError("the receipt is larger than any", hint=_ANEW)
    return parse_receipt(read_section(bundle, places[0]))


def parse_receipt(content: bytes) -> Receipt:
    """The receipt that JSON says. Raises LaterFormat for one of a later format, InputError for anything else."""
    try:
        said = json.loads(content)
        version = _typed(said["format"], int)
        if version > FORMAT:
            raise LaterFormat(f"a receipt of format {version}, later than the {FORMAT} known here", hint=_UPDATE)
        if version != FORMAT:
            raise ValueError(f"there is no format {version}")
        return Receipt(
            source=_origin(said["source"]),
            settings=_typed(said["settings"], dict),
            versions={name: _typed(version, str) for name, version in _typed(said["versions"], dict).items()},
            checks=tuple(_checked(check) for check in _typed(said["checks"], list)),
            sections=tuple(_section(section) for section in _typed(said["sections"], list)),
            tensors={name: _tensor(tensor) for name, tensor in _typed(said["tensors"], dict).items()},
        )
    # Bytes that are no text, text that is no JSON, JSON of another shape, numbers beyond any.
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"the receipt cannot be read ({what})", hint=_ANEW) from error


def _origin(said: Any) -> Origin:
    kind, revision = said["kind"], said["revision"]
    if kind not in KINDS:
        raise ValueError("a source of no known kind")
    return Origin(kind, _typed(said["name"], str), None if revision is None else _typed(revision, str))


def _checked(said: Any) -> Checked:
    return Checked(_typed(said["name"], str), _typed(said["passed"], bool), _typed(said["detail"], str))


def _section(said: Any) -> SectionDigest:
    return SectionDigest(_typed(said["kind"], str), _typed(said["size"], int), _digest(said["sha256"]))


def _tensor(said: Any) -> StoredTensor:
    shape = tuple(_typed(size, int) for size in _typed(said["shape"], list))
    return StoredTensor(_typed(said["dtype"], str), shape, _digest(said["sha256"]))


def _digest(said: Any) -> str:
    digest = _typed(said, str)
    if not _DIGEST.fullmatch(digest):
        raise ValueError("a SHA-256 that has not 64 digits")
    return digest


def _typed(value: Any, kind: type[Part]) -> Part:
    # To Python, True is an int.
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is due")
    return value
