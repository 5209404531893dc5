"""What a person may choose about a conversion, checked before anything is done."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from autoconvert.errors import InputError
from autoconvert.lowering.cpu import CPU
from autoconvert.quantization.recipe import Recipe
from autoconvert.quantization.recipe_file import recipe_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Format = Literal["litertlm", "tflite"]
Verify = Literal["quick", "full", "off"]

DEFAULT_CONTEXT = 4096
SHORTEST_CONTEXT = 4
# A large rung for speed and a small one for the last slots of a conversation, which the planner fills only so.
FIXED_PREFILL = (128, 16)
# Where a scan is unrolled over the positions of a chunk, a long chunk is a large file.
UNROLLED_PREFILL = (16,)
# What configurations call the number of positions that the model was made for.
_LIMITS = ("max_position_embeddings", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class Settings:
    """A valid choice: `context` in positions, `prefill` chunk lengths, the longest first; none where any is read.

    `chose_context` and `chose_prefill` say whether a person did. `why_fixed` says why lengths are fixed where
    nobody chose them.
    """

    context: int
    chose_context: bool
    prefill: tuple[int, ...]
    chose_prefill: bool
    quantize: Recipe
    formats: tuple[Format, ...]
    verify: Verify
    why_fixed: str = ""

    @property
    def signatures(self) -> int:
        """How many signatures a file has: one for each length of a chunk or for any, and one for a token."""
        return max(len(self.prefill), 1) + 1


def choose(
    config: "PreTrainedConfig | None",
    *,
    context: int | None,
    prefill: Sequence[int] | None,
    quantize: str | Path | Recipe,
    formats: Sequence[str],
    verify: str,
) -> Settings:
    """Settles defaults by the model's `config`.

    Raises:
        InputError: a choice that contradicts another, or the model.
    """
    limit = context_limit(config)
    fitting = None if limit is None else longest_context(limit)
    if context is not None and context < SHORTEST_CONTEXT:
        raise InputError(
            f"A context of {context} positions holds no conversation.",
            hint=f"Choose at least {SHORTEST_CONTEXT}.",
        )
    if context is not None and limit is not None and context > limit:
        raise InputError(
            f"A context of {context} positions is larger than the {limit} that the model was made for.",
            hint=f"Choose --context {limit} or less.",
        )
    if context is not None and limit is not None and CPU.capacity(context) > limit:
        raise InputError(
            f"No file can hold a context of {context} positions: the runtime takes a cache of so many slots, a prime "
            f"number, for a placeholder, and the model was made for at most {limit}.",
            hint=f"Choose --context {fitting}.",
        )
    chosen = context if context is not None else default_context(config)
    recipe = recipe_of(quantize)
    return Settings(
        context=chosen,
        chose_context=context is not None,
        prefill=_prefill(prefill, chosen),
        chose_prefill=prefill is not None,
        quantize=recipe,
        formats=tuple(_one_of("format", name, get_args(Format)) for name in formats),  # type: ignore[misc]
        verify=_one_of("verify", verify, get_args(Verify)),  # type: ignore[arg-type]
    )


def as_data(settings: Settings) -> dict[str, Any]:
    """The settings by name, for a report: of a recipe its name."""
    chosen = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {**chosen, "quantize": settings.quantize.name}


def at_context(settings: Settings, context: int) -> Settings:
    """The same, with the context that the model turned out to hold."""
    return dataclasses.replace(settings, context=context, prefill=_fitting(settings.prefill, context))


def for_unrolled(settings: Settings) -> Settings:
    """The same, with a chunk length that suits a model whose positions are computed one after the other."""
    return with_fixed_lengths(settings, "positions are computed one after the other", UNROLLED_PREFILL)


def with_fixed_lengths(settings: Settings, why: str, lengths: tuple[int, ...] = FIXED_PREFILL) -> Settings:
    """The same for a model that cannot read chunks of any length, which `why` says, where nobody chose lengths."""
    if settings.chose_prefill:
        return settings
    return dataclasses.replace(settings, prefill=_fitting(lengths, settings.context), why_fixed=why)


def default_context(config: "PreTrainedConfig | None") -> int:
    """The context of a conversion for which nobody chooses one."""
    limit = context_limit(config)
    return DEFAULT_CONTEXT if limit is None else min(DEFAULT_CONTEXT, longest_context(limit))


def longest_context(limit: int) -> int:
    """The most positions, up to `limit`, that a cache of no more slots holds."""
    return next(count for count in range(limit, 0, -1) if CPU.capacity(count) == count)


def context_limit(config: "PreTrainedConfig | None") -> int | None:
    """How many positions the model was made for; None where its configuration does not say."""
    if config is None:
        return None
    text = config.get_text_config(decoder=True)
    limits = (getattr(text, name, None) for name in _LIMITS)
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)


def _prefill(prefill: Sequence[int] | None, context: int) -> tuple[int, ...]:
    if prefill is None:
        return ()
    if not prefill or any(length < 1 for length in prefill):
        raise InputError("Prefill lengths are positive numbers.", hint="For example --prefill 128,16.")
    too_long = max(prefill)
    if too_long > context:
        raise InputError(
            f"A prefill of {too_long} positions does not fit a context of {context}.",
            hint="Choose shorter --prefill lengths or a larger --context.",
        )
    return tuple(sorted(set(prefill), reverse=True))


def _fitting(lengths: tuple[int, ...], context: int) -> tuple[int, ...]:
    return tuple(length for length in lengths if length <= context) or (lengths and (context,))


def _one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InputError(f"--{option} {value} is not known.", hint=f"Choose one of: {', '.join(allowed)}.")
    return value
