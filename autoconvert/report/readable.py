"""Sizes and lengths as people write them."""

from collections.abc import Mapping
from typing import Any


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
