"""Sizes, lengths and costs as people write them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoconvert.check.repeated_entries import Repeated


def readable_size(size: float) -> str:
    """Bytes with a unit: 1 MB is 10⁶."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def readable_context(settings: Mapping[str, Any]) -> str:
    """How many positions a file has, and how a text is read, by the settings as a report has them."""
    positions = f"{settings['context']} positions"
    if not settings["prefill"]:
        return f"{positions}, a text of any length at a time; costs follow its length"
    chunks = f"{positions}, prefilled {' or '.join(map(str, settings['prefill']))} at a time"
    return f"{chunks}, since {settings['why_fixed']}" if settings["why_fixed"] else chunks


def readable_repetition(repeated: "Repeated") -> str:
    """What caches cost that hold each number several times, and how a pattern saves it."""
    caches = "1 cache holds" if len(repeated.caches) == 1 else f"{len(repeated.caches)} caches hold"
    return (
        f"{caches} each number {repeated.times} times, {readable_size(repeated.nbytes)} more than once, since it is "
        f"repeated before it is kept ({repeated.at}). A pattern that repeats behind what follows, right before the "
        "attention, saves that."
    )
