"""The runtime's tokens of texts of many kinds beside those of the source's tokenizer."""

from collections.abc import Sequence

import litert_lm

from autoconvert.errors import CheckFailed
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.packaging.tokenizer_section import Reading


def check_readings(wanted: Sequence[Reading], found: Sequence[Sequence[int]]) -> None:
    """Compares what the runtime has `found` in each text. Raises CheckFailed at the first token that differs."""
    for reading, ids in zip(wanted, found, strict=True):
        if tuple(ids) != reading.ids:
            pairs = enumerate(zip(ids, reading.ids, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(reading.ids)))
            raise CheckFailed(
                f"the runtime reads {reading.text[:60]!r} as {list(ids[at : at + 6])} from token {at} on, the source's "
                f"tokenizer as {list(reading.ids[at : at + 6])}",
                hint="The bundle's tokenizer is not the model's: convert it again.",
            )


def read_framing(engine: litert_lm.Engine) -> tuple[int | None, list[list[int]]]:
    """The token that the runtime puts before a text, and those at which it stops."""
    return engine.bos_token_id, [list(stop) for stop in engine.eos_token_ids]


def check_framing(wanted: TokenizerSpec, start: int | None, stops: Sequence[Sequence[int]]) -> None:
    """Compares the runtime's start and stop tokens with the source's. Raises CheckFailed where they are others."""
    if start != wanted.start:
        raise CheckFailed(
            f"the runtime starts a text with token {start}, the source's tokenizer with {wanted.start}",
            hint="The bundle's start token is not the model's: convert it again.",
        )
    found = {stop[0] for stop in stops if len(stop) == 1}
    if missing := set(wanted.stops) - found:
        raise CheckFailed(
            f"the runtime does not stop at tokens {sorted(missing)}, at which the source's answers end",
            hint="The bundle's stop tokens are not the model's: convert it again.",
        )
    if wanted.stops and (more := found - set(wanted.stops)):
        raise CheckFailed(
            f"the runtime stops at tokens {sorted(more)}, which end no answer of the source",
            hint="The bundle's stop tokens are not the model's: convert it again.",
        )
