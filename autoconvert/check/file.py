"""Where the file itself is compared: at which positions its chunks tell most, and its logits there."""

from collections.abc import Sequence

from torch import Tensor

from autoconvert.runtime.interpreter import Runner


def logits_at(runner: Runner, tokens: Sequence[int], position: int) -> Tensor:
    """Logits [vocabulary] at `position`: everything before is prefilled, the token there decoded."""
    runner.reset()
    runner.prefill(tokens[:position])
    return runner.decode(tokens[position])


def telling_positions(lengths: Sequence[int], context: int) -> list[int]:
    """Positions around which chunks are empty, full, part-filled, several in a row, and at the end of the context."""
    longest, shortest = max(lengths), min(lengths)
    around = {0, 1, shortest - 1, shortest, shortest + 1, longest + 1, longest + shortest + 2, context - 1}
    return sorted(p for p in around if 0 <= p < context)
