"""The bundle in the runtime that a phone uses, against the source model: token ids, scores, first answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoconvert.check.chat import ask_in_turn, check_answered, check_dialogues
from autoconvert.check.tokenizer import check_framing, check_readings, read_framing
from autoconvert.errors import CheckFailed, InputError
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.packaging.passage import text_of_length
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.packaging.tokenizer_section import Encode
from autoconvert.runtime import scoring
from autoconvert.runtime.conversations import read_texts, render_dialogues
from autoconvert.runtime.engine import Asked, open_remote_engine
from autoconvert.runtime.runner import Runner
from autoconvert.runtime.scoring import Score

# By how much other last bits change the log-probabilities of a target after a prompt, by their token ids.
LastBits = Callable[[Sequence[int], Sequence[int]], float]

# Natural log-probability of a token, in the engine against the file by its signatures: nothing rounded, or something.
SAME_NUMBERS, SAME_CONSTANTS = 1e-3, 2e-2
# The chunk that prompts are made for where one may have any length.
_SHORT = 16
DO_NOT_USE = "Do not use the bundle: convert with --quantize none --verify full to see where it breaks."


@dataclass(frozen=True)
class EngineCheck:
    """A bundle compared in the runtime.

    `worst` is the largest difference of a token's log-probability; `lengths` are the prompts' token counts;
    `answers` counts the first answer tokens that were compared (a near tie of the reference is not).
    """

    worst: float
    lengths: tuple[int, ...]
    answers: int

    def __str__(self) -> str:
        lengths = ", ".join(map(str, self.lengths))
        return f"log-probabilities within {self.worst:.1e} at prompts of {lengths} tokens"


@dataclass(frozen=True)
class Spoken:
    """A prompt and what is expected of it.

    `ids` are its tokens, `target` those of the text that is scored after it, both by the source's tokenizer. `logits`
    float32 [target, vocabulary] precede each token of the target; `logits_after_rewind` are the same where the last
    token takes the place of the one before it, as in litert-lm 0.18.1, which steps back before it scores.
    """

    prompt: str
    ids: tuple[int, ...]
    target: tuple[int, ...]
    logits: torch.Tensor
    logits_after_rewind: torch.Tensor


def spoken(runner: Runner, context: int, tokenizer: TokenizerSpec, *, thorough: bool) -> list[Spoken]:
    """A prompt of a full and a part-filled chunk, with what `runner` says of it; several prompts if `thorough`.

    Raises InputError where `context` has no room for one.
    """
    encode, texts = tokenizer.encoder(), tokenizer.texts
    target = tokenizer.section.encoder()(texts.target)
    lengths = prompt_lengths(runner.prefill_lengths, context, len(target))
    if not thorough:
        chained = 2 * min(runner.prefill_lengths, default=_SHORT)
        lengths = [max((n for n in lengths if n <= chained), default=lengths[0])]
    found = []
    for prompt in dict.fromkeys(text_of_length(encode, texts.passage, length) for length in lengths):
        ids = encode(prompt)
        heard = [ids[-1], *target[:-1]]
        runner.reset()
        runner.prefill(ids[:-1])
        logits = torch.stack(list(map(runner.decode, heard)))
        runner.rewind(len(ids) - 2)
        after_rewind = torch.stack(list(map(runner.decode, heard)))
        found.append(Spoken(prompt, tuple(ids), tuple(target), logits, after_rewind))
    return found


def check_bundle(
    bundle: Path,
    tokenizer: TokenizerSpec,
    prompts: Sequence[Spoken],
    *,
    room: int,
    tolerance: float,
    last_bits: LastBits | None = None,
    packed: Path | None = None,
) -> EngineCheck:
    """Compares `bundle` in the runtime with what is expected of `prompts`, and with the source's `tokenizer`.

    `room` is how many tokens a chat may have. `tolerance` bounds the difference of a token's natural log-probability:
    1e-3 suits float32. Where factors are rounded, the last bits of a sum decide how, and `last_bits` explains more.
    `packed` is the folder of the bundle's packed weights. Raises CheckFailed on other token ids,
    another chat, a larger difference or another answer, RuntimeFailed if the runtime refuses the bundle or dies of it.
    """
    texts, readings, dialogues = tokenizer.texts, tokenizer.readings, tokenizer.dialogues
    with open_remote_engine(bundle, packed=packed) as engine:
        check_framing(tokenizer, *engine.ask(read_framing))
        check_readings(readings, engine.ask(read_texts, [reading.text for reading in readings]))
        check_dialogues(dialogues, engine.ask(render_dialogues, dialogues))
        check_messages(engine, tokenizer.encoder(), dialogues, room)
        return check_prompts(engine, prompts, texts.target, tolerance, last_bits)


def check_prompts(
    engine: Asked, prompts: Sequence[Spoken], target: str, tolerance: float, last_bits: LastBits | None = None
) -> EngineCheck:
    """Compares tokens and scores of all `prompts`, and the first answers to the shortest and the longest.

    Raises CheckFailed.
    """
    check_tokens(engine, prompts)
    scores: list[Score] = engine.ask(scoring.score_all, [said.prompt for said in prompts], target)
    worst = max(compare_score(found, said, tolerance, last_bits) for found, said in zip(scores, prompts, strict=True))
    ends = [prompts[0], *prompts[1:][-1:]]
    answers = sum(check_answer(engine, said, max(tolerance, worst)) for said in ends)
    return EngineCheck(worst, tuple(len(said.ids) for said in prompts), answers)


def room_for_chat(context: int, prefill: Sequence[int]) -> int:
    """How many tokens a chat may have: the runtime takes a part-filled chunk only where all of it fits."""
    return context - 2 * min(prefill, default=1)


def check_messages(engine: Asked, encode: Encode, dialogues: Sequence[Dialogue], room: int) -> None:
    """Sends the questions of the first dialogue in turn, as many as `room` in tokens is enough for."""
    for dialogue in dialogues[:1]:
        lengths = [len(encode(rendering)) + 1 for rendering in dialogue.renderings]
        questions = [question for question, length in zip(dialogue.questions, lengths, strict=True) if length <= room]
        check_answered(questions, engine.ask(ask_in_turn, dialogue.opening, questions))


def compare_score(found: Score, expected: Spoken, tolerance: float, last_bits: LastBits | None = None) -> float:
    """The largest difference of a token's log-probability.

    Raises CheckFailed if it is over `tolerance`, and over what `last_bits` explain.
    """
    if found.target != expected.target:
        raise CheckFailed(
            f"the runtime reads a text to score as {found.target}, the source's tokenizer as {expected.target}",
            hint="The bundle's tokenizer is not the model's: convert it again.",
        )
    given, at = torch.tensor(found.token_log_probabilities), torch.tensor(found.target)[:, None]
    ways = [logits.log_softmax(-1).gather(1, at)[:, 0] for logits in (expected.logits, expected.logits_after_rewind)]
    wanted = min(ways, key=lambda way: float((way - given).abs().nan_to_num(nan=torch.inf).max()))
    differences = (wanted - given).abs()
    worst = float(differences.max())
    if not worst <= tolerance and (last_bits is None or not worst <= last_bits(expected.ids, expected.target)):
        token = int(differences.argmax())
        raise CheckFailed(
            f"after a prompt of {len(expected.ids)} tokens the runtime gives target token {token} the "
            f"log-probability {given[token]:.4f}, the source gives {wanted[token]:.4f}",
            hint=DO_NOT_USE,
        )
    return worst


def check_answer(engine: Asked, expected: Spoken, tolerance: float) -> int:
    """Compares the first greedy token: 1 if it was compared, 0 for a near tie or an end of the text.

    Raises CheckFailed if it is another.
    """
    best = expected.logits[0].log_softmax(-1).topk(2)
    token = int(best.indices[0])
    if float(best.values[0] - best.values[1]) <= 2 * tolerance or [token] in engine.ask(scoring.stop_ids):
        return 0
    said = engine.ask(scoring.first_answer, expected.prompt)
    wanted = engine.ask(scoring.text_of, [token])
    if said.strip() != wanted.strip():
        raise CheckFailed(
            f"after a prompt of {len(expected.ids)} tokens the runtime answers {said!r}, the source {wanted!r}",
            hint=DO_NOT_USE,
        )
    return 1


def check_tokens(engine: Asked, prompts: Sequence[Spoken]) -> None:
    """Compares the token ids of whole texts."""
    texts = [expected.prompt for expected in prompts]
    for expected, ids in zip(prompts, engine.ask(scoring.all_runtime_ids, texts), strict=True):
        if tuple(ids) != expected.ids:
            raise CheckFailed(
                f"the runtime reads {expected.prompt[:40]!r} as {ids[:8]}, the source's tokenizer as "
                f"{list(expected.ids[:8])}",
                hint="The bundle's tokenizer or start token is not the model's: convert it again.",
            )


def prompt_lengths(prefill: Sequence[int], context: int, target: int) -> list[int]:
    """Prompt lengths, ascending, that part-fill, fill and chain the prefill lengths and fit the context.

    The runtime holds back the last token, and takes a part-filled chunk only where all of it fits. `target` tokens
    follow.
    """
    prefill = prefill or (_SHORT,)
    shortest = min(prefill)
    room = context - shortest - target - 1
    wanted = {4, shortest + 1, shortest + shortest // 2 + 1, sum(prefill) + 3, 2 * max(prefill) + shortest // 2 + 1}
    wanted |= {length // 2 + 2 for length in prefill}
    lengths = sorted(n for n in wanted if 4 <= n <= room)
    if not lengths:
        raise InputError(
            f"a context of {context} tokens leaves no room to check prefill lengths {sorted(prefill)}",
            hint="Convert with a larger --context or a smaller --prefill.",
        )
    return lengths
