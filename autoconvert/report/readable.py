"""Sizes as people write them."""


def readable_size(size: float) -> str:
    """Bytes with a unit: 1 MB is 10⁶."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
