"""The bundle in the runtime that a phone uses, against the source model: token ids, scores, first answers."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import litert_lm
import torch

from autoconvert.check.chat import ask_in_turn, check_answered, check_dialogues
from autoconvert.check.tokenizer import check_framing, check_readings, read_framing
from autoconvert.errors import CheckFailed, InputError
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.packaging.litertlm import read_llm_metadata, read_signatures
from autoconvert.packaging.passage import ENGLISH, Texts
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.packaging.tokenizer_section import Encode
from autoconvert.runtime.conversations import read_texts, render_dialogues
from autoconvert.runtime.engine import GREEDY, RuntimeFailed, open_engine

ReferenceLogits = Callable[[list[int]], torch.Tensor]

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
        rewinds = rewinds_before_scoring(engine, ENGLISH)
        pairs = zip(prompts, targets, strict=True)
        return [score_text(engine, prompt, target, rewinds=rewinds) for prompt, target in pairs]


def check_bundle(
    bundle: Path, reference_logits: ReferenceLogits, tokenizer: TokenizerSpec, *, tolerance: float
) -> EngineCheck:
    """Compares `bundle` in the runtime with the source.

    `reference_logits` maps n token ids to float32 [n, vocabulary]; `tokenizer` says what the source's tokenizer makes
    of texts and chats. Prompts cover part-filled chunks, full ones and several in a row.
    `tolerance` bounds the difference of a token's natural log-probability: 1e-3 suits float32.
    Raises CheckFailed on other token ids, another chat, a larger difference or another answer, InputError if the
    runtime refuses the bundle.
    """
    prefill = [int(name.split("_")[1]) for name in read_signatures(bundle) if name.startswith("prefill_")]
    context = read_llm_metadata(bundle).max_num_tokens
    encode, texts = tokenizer.encoder(), tokenizer.texts
    with open_engine(bundle) as engine:
        check_framing(tokenizer, *read_framing(engine))
        check_readings(tokenizer.readings, read_texts(engine, [reading.text for reading in tokenizer.readings]))
        check_dialogues(tokenizer.dialogues, render_dialogues(engine, tokenizer.dialogues))
        check_messages(engine, encode, tokenizer.dialogues, context - 2 * min(prefill))
        lengths = prompt_lengths(prefill, context, len(engine.tokenize(texts.target)))
        prompts = list(dict.fromkeys(text_of_length(encode, texts.passage, length) for length in lengths))
        for prompt in prompts:
            check_tokens(engine, encode, prompt)
        rewinds = rewinds_before_scoring(engine, texts)
        scores = [score_text(engine, prompt, texts.target, rewinds=rewinds) for prompt in prompts]
        worst = max(compare_score(s, reference_logits, tolerance) for s in scores)
        ends = dict.fromkeys((prompts[0], prompts[-1]))
        answers = sum(check_answer(engine, p, encode(p), reference_logits, tolerance) for p in ends)
    return EngineCheck(worst, tuple(len(encode(prompt)) for prompt in prompts), answers)


def check_messages(engine: litert_lm.Engine, encode: Encode, dialogues: Sequence[Dialogue], room: int) -> None:
    """Sends the questions of the first dialogue in turn, as many as `room` in tokens is enough for."""
    for dialogue in dialogues[:1]:
        lengths = [len(encode(rendering)) + 1 for rendering in dialogue.renderings]
        questions = [question for question, length in zip(dialogue.questions, lengths, strict=True) if length <= room]
        check_answered(questions, ask_in_turn(engine, dialogue.opening, questions))


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


def rewinds_before_scoring(engine: litert_lm.Engine, texts: Texts) -> bool:
    """Whether the runtime forgets the last token but one of a prompt before it scores, as 0.18.1 does.

    It steps back one position for a token that it has already held back. Found by scoring after two prompts
    that differ in just that token: equal to the last bit means forgotten. Generating is not affected.
    """
    for first, second in (*texts.twins, *near_twins(engine)):
        scores = [score_text(engine, text, texts.target, rewinds=False) for text in (first, second)]
        return scores[0].token_log_probabilities == scores[1].token_log_probabilities
    raise CheckFailed(
        "no two prompts were found that differ in their last token but one alone",
        hint="This tokenizer cannot be checked in the runtime; use --verify off.",
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


def runtime_ids(engine: litert_lm.Engine, text: str) -> list[int]:
    """What the model sees of a first prompt: the bundle's start token, if any, and the text's tokens."""
    start = engine.bos_token_id
    return ([] if start is None else [start]) + list(engine.tokenize(text))


def prompt_lengths(prefill: Sequence[int], context: int, target: int) -> list[int]:
    """Prompt lengths, ascending, that part-fill, fill and chain the prefill lengths and fit the context.

    The runtime holds back the last token, and takes a part-filled chunk only where all of it fits. `target` tokens
    follow.
    """
    room = context - min(prefill) - target - 1
    wanted = {4, min(prefill) + 1, sum(prefill) + 3, 2 * max(prefill) + min(prefill) // 2 + 1}
    wanted |= {length // 2 + 2 for length in prefill}
    lengths = sorted(n for n in wanted if 4 <= n <= room)
    if not lengths:
        raise InputError(
            f"a context of {context} tokens leaves no room to check prefill lengths {sorted(prefill)}",
            hint="Convert with a larger --context or a smaller --prefill.",
        )
    return lengths


def text_of_length(encode: Encode, passage: str, length: int) -> str:
    """The shortest beginning of `passage`, repeated without end, that has `length` tokens, rarely more."""
    endless = passage
    while len(encode(endless)) < length:
        endless += endless
    return endless[: bisect_left(range(len(endless)), length, key=lambda end: len(encode(endless[:end])))]
