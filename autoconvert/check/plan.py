"""What the check of a file reads, by the size of the model: to the end of the context, or as much as time allows."""

from dataclasses import dataclass

from autoconvert.check.readings import Reading, at_the_end, from_all_starts, from_the_start, shortest_of, token_by_token
from autoconvert.lowering.compiled import Compiled

# Multiply-adds, a parameter and a position each, up to which a text is read to the end of the context.
_READ_WHOLE = 2_000_000_000
# The same, where only that can tell whether the end of the context is right.
_READ_WHOLE_IF_NEEDED = 200_000_000_000
# Tokens of all prompts of a bundle together, with chunks of the usual lengths.
_PROMPTED = 600


@dataclass(frozen=True)
class Plan:
    """`texts` are read first, then those that begin `late`; where the source cannot read these, the `whole` text.

    `not_run` says what is left out.
    """

    texts: tuple[Reading, ...]
    late: tuple[Reading, ...] = ()
    whole: Reading | None = None
    not_run: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[Reading, ...]:
        """What is read in any case."""
        return (*self.texts, *self.late)


def is_cheap(parameters: int, context: int) -> bool:
    """Whether a model of so many parameters reads `context` positions in about the time that a process takes."""
    return parameters * context <= _READ_WHOLE


def asks_all_prompts(parameters: int) -> bool:
    """Whether the bundle of a model of so many parameters is asked prompts of all kinds, and not one."""
    return is_cheap(parameters, _PROMPTED)


def plan(compiled: Compiled, context: int, parameters: int, *, thorough: bool) -> Plan:
    """What is read of a file of `context` positions whose model has so many parameters; all of it if `thorough`."""
    lengths, vocabulary, windows = sorted(compiled.prefill), compiled.vocabulary, compiled.windows
    to_the_end = thorough or is_cheap(parameters, context)
    texts = from_all_starts(lengths, context, vocabulary, windows, to_the_end=to_the_end)
    not_run = tuple(f"windows of {n} positions were not passed" for n in windows if n >= texts[0].length)
    if thorough:
        texts.append(token_by_token(context, vocabulary))
    if to_the_end or texts[0].length >= context or shortest_of(lengths) + 2 > context:
        return Plan(tuple(texts), not_run=not_run)
    late = tuple(at_the_end(lengths, context, vocabulary))
    affordable = parameters * context <= _READ_WHOLE_IF_NEEDED
    whole = from_the_start(lengths, context, vocabulary, to_the_end=True) if affordable else None
    return Plan(tuple(texts), late, whole, not_run)
