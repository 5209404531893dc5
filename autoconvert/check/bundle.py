"""The bundle in the runtime that a phone uses, against the source model: token ids, scores, first answers."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import litert_lm
import torch

from autoconvert.errors import CheckFailed, InputError
from autoconvert.packaging.litertlm import read_llm_metadata, read_signatures
from autoconvert.runtime.engine import GREEDY, RuntimeFailed, open_engine

Encode = Callable[[str], list[int]]
ReferenceLogits = Callable[[list[int]], torch.Tensor]

TARGET = " and then it was"
PASSAGE = (
    "The small house at the end of the road was empty when we came back in the evening, and nobody knew "
    "why the door stood open. A dog slept on the step; 2 chairs, 3 cups and an old radio were all we saw. "
)
DO_NOT_USE = "Do not use the bundle: convert with --quantize none --verify full to see where it breaks."


@dataclass(frozen=True)
class Score:
    """What the runtime says of `target` after `context`, both token ids: a natural logarithm per token."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    token_log_probabilities: tuple[float, ...]


@dataclass(frozen=True)
class EngineCheck:
    """A bundle compared in the runtime.

    `worst` is the largest difference of a token's log-probability; `lengths` are the prompts' token counts;
    `answers` counts the first answer tokens that were compared (a near tie of the reference is not).
    """

    worst: float
    lengths: tuple[int, ...]
    answers: int


def score(bundle: Path, prompts: Sequence[str], targets: Sequence[str]) -> list[Score]:
    """Scores each target after its prompt, without any chat template; prompts need two tokens or more.

    Raises InputError if there is no bundle or the runtime refuses it or a prompt.
    """
    with open_engine(bundle) as engine:
        rewinds = rewinds_before_scoring(engine)
        pairs = zip(prompts, targets, strict=True)
        return [score_text(engine, prompt, target, rewinds=rewinds) for prompt, target in pairs]


def check_bundle(
    bundle: Path,
    reference_logits: ReferenceLogits,
    encode: Encode,
    *,
    tolerance: float,
    encode_turn: Encode | None = None,
) -> EngineCheck:
    """Compares `bundle` in the runtime with the source.

    `reference_logits` maps n token ids to float32 [n, vocabulary]; `encode` is the source tokenizer with the
    tokens that it puts around a text; `encode_turn` encodes one user turn up to where the answer begins, for
    a bundle with a chat template. Prompts cover part-filled chunks, full ones and several in a row.
    `tolerance` bounds the difference of a token's natural log-probability: 1e-3 suits float32.
    Raises CheckFailed on other token ids, a larger difference or another answer, InputError if the runtime
    refuses the bundle.
    """
    prefill = [int(name.split("_")[1]) for name in read_signatures(bundle) if name.startswith("prefill_")]
    context = read_llm_metadata(bundle).max_num_tokens
    with open_engine(bundle) as engine:
        if encode_turn is not None:
            check_turn(engine, encode_turn)
        lengths = prompt_lengths(prefill, context, engine)
        prompts = list(dict.fromkeys(text_of_length(encode, length) for length in lengths))
        for prompt in prompts:
            check_tokens(engine, encode, prompt)
        rewinds = rewinds_before_scoring(engine)
        scores = [score_text(engine, prompt, TARGET, rewinds=rewinds) for prompt in prompts]
        worst = max(compare_score(s, reference_logits, tolerance) for s in scores)
        ends = dict.fromkeys((prompts[0], prompts[-1]))
        answers = sum(check_answer(engine, p, encode(p), reference_logits, tolerance) for p in ends)
    return EngineCheck(worst, tuple(len(encode(prompt)) for prompt in prompts), answers)


def score_text(engine: litert_lm.Engine, prompt: str, target: str, *, rewinds: bool) -> Score:
    """Scores `target` after `prompt` in a fresh session; `rewinds` is what `rewinds_before_scoring` found."""
    context = runtime_ids(engine, prompt)
    with engine.create_session(apply_prompt_template=False) as session:
        try:
            session.run_prefill([prompt])
            found = session.run_text_scoring([target], True)
        except RuntimeError as error:
            raise RuntimeFailed(
                f"the runtime refused to score after a prompt of {len(context)} tokens: {error}",
                hint="Prompt and target must fit the bundle's context, with room for its smallest prefill.",
            ) from error
    heard = context[:-2] + context[-1:] if rewinds else context
    return Score(tuple(heard), tuple(engine.tokenize(target)), tuple(found.token_scores[0]))


def rewinds_before_scoring(engine: litert_lm.Engine) -> bool:
    """Whether the runtime forgets the last token but one of a prompt before it scores, as 0.18.1 does.

    It steps back one position for a token that it has already held back. Found by scoring after two prompts
    that differ in just that token: equal to the last bit means forgotten. Generating is not affected.
    """
    for first, second in near_twins(engine):
        scores = [score_text(engine, text, TARGET, rewinds=False) for text in (first, second)]
        return scores[0].token_log_probabilities == scores[1].token_log_probabilities
    raise CheckFailed(
        "no two prompts were found that differ in their last token but one alone",
        hint="This tokenizer cannot be checked in the runtime; use --verify quick.",
    )


def near_twins(engine: litert_lm.Engine) -> Iterator[tuple[str, str]]:
    """Pairs of texts whose token ids differ in the last but one alone."""
    for frame in ("x{}y", "({})", "a {} b", "{}.", "we saw {} cats"):
        for pair in (("1", "2"), ("+", "="), ("two", "ten"), ("!", "?")):
            first, second = (frame.format(word) for word in pair)
            a, b = engine.tokenize(first), engine.tokenize(second)
            if len(a) == len(b) and [i for i in range(len(a)) if a[i] != b[i]] == [len(a) - 2]:
                yield first, second


def compare_score(found: Score, reference_logits: ReferenceLogits, tolerance: float) -> float:
    """The largest difference of a token's log-probability. Raises CheckFailed if it is over `tolerance`."""
    logits = reference_logits([*found.context, *found.target])[len(found.context) - 1 : -1]
    wanted = logits.log_softmax(-1).gather(1, torch.tensor(found.target)[:, None])[:, 0]
    differences = (wanted - torch.tensor(found.token_log_probabilities)).abs()
    worst = float(differences.max())
    if not worst <= tolerance:
        at = int(differences.argmax())
        raise CheckFailed(
            f"after a prompt of {len(found.context)} tokens the runtime gives target token {at} the "
            f"log-probability {found.token_log_probabilities[at]:.4f}, the source gives {wanted[at]:.4f}",
            hint=DO_NOT_USE,
        )
    return worst


def check_answer(
    engine: litert_lm.Engine, prompt: str, ids: list[int], reference_logits: ReferenceLogits, tolerance: float
) -> int:
    """Compares the first greedy token: 1 if it was compared, 0 for a near tie or an end of the text.

    Raises CheckFailed if it is another.
    """
    best = reference_logits(ids)[-1].log_softmax(-1).topk(2)
    token = int(best.indices[0])
    if float(best.values[0] - best.values[1]) <= 2 * tolerance or [token] in engine.eos_token_ids:
        return 0
    with engine.create_session(apply_prompt_template=False, sampler_config=GREEDY, max_output_tokens=1) as session:
        session.run_prefill([prompt])
        said = "".join(text for part in session.run_decode_async() for text in part.texts)
    wanted = engine.detokenize([token])
    if said.strip() != wanted.strip():
        raise CheckFailed(
            f"after a prompt of {len(ids)} tokens the runtime answers {said!r}, the source {wanted!r}",
            hint=DO_NOT_USE,
        )
    return 1


def check_tokens(engine: litert_lm.Engine, encode: Encode, prompt: str) -> None:
    ids, wanted = runtime_ids(engine, prompt), encode(prompt)
    if ids != wanted:
        raise CheckFailed(
            f"the runtime reads {prompt[:40]!r} as {ids[:8]}, the source's tokenizer as {wanted[:8]}",
            hint="The bundle's tokenizer or start token is not the model's: convert it again.",
        )


def check_turn(engine: litert_lm.Engine, encode_turn: Encode) -> None:
    """Compares the token ids of a user's turn.

    A template without a start token gets the tokenizer's all the same: the runtime writes it before any text.
    """
    message = "Where is the nearest river?"
    with engine.create_conversation() as conversation:
        rendered = conversation.render_message_to_string(message)
    ids, wanted = runtime_ids(engine, rendered), encode_turn(message)
    if wanted[:1] != ids[:1] and engine.bos_token_id is not None:
        wanted = [engine.bos_token_id, *wanted]
    if ids != wanted:
        raise CheckFailed(
            f"the runtime renders a user's turn as {rendered!r}, {len(ids)} tokens; the source's chat "
            f"template gives {len(wanted)} other ones",
            hint="The chat template does not work in the runtime: report it, and prompt with whole texts.",
        )


def runtime_ids(engine: litert_lm.Engine, text: str) -> list[int]:
    """What the model sees of a first prompt: the bundle's start token, if any, and the text's tokens."""
    start = engine.bos_token_id
    return ([] if start is None else [start]) + list(engine.tokenize(text))


def prompt_lengths(prefill: Sequence[int], context: int, engine: litert_lm.Engine) -> list[int]:
    """Prompt lengths, ascending, that part-fill, fill and chain the prefill lengths and fit the context.

    The runtime holds back the last token, and takes a part-filled chunk only where all of it fits.
    """
    room = context - min(prefill) - len(engine.tokenize(TARGET)) - 1
    wanted = {4, min(prefill) + 1, sum(prefill) + 3, 2 * max(prefill) + min(prefill) // 2 + 1}
    wanted |= {length // 2 + 2 for length in prefill}
    lengths = sorted(n for n in wanted if 4 <= n <= room)
    if not lengths:
        raise InputError(
            f"a context of {context} tokens leaves no room to check prefill lengths {sorted(prefill)}",
            hint="Convert with a larger --context or a smaller --prefill.",
        )
    return lengths


def text_of_length(encode: Encode, length: int) -> str:
    """The shortest beginning of an endless text that has `length` tokens, rarely more."""
    endless = PASSAGE
    while len(encode(endless)) < length:
        endless += endless
    return endless[: bisect_left(range(len(endless)), length, key=lambda end: len(encode(endless[:end])))]
