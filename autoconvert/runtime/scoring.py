"""What the engine says of texts, without any chat template: token ids, log-probabilities, first answers.

These are questions for an engine, in this process or in another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import litert_lm

from autoconvert.errors import CheckFailed
from autoconvert.runtime.engine import GREEDY
from autoconvert.runtime.failed import RuntimeFailed


@dataclass(frozen=True)
class Score:
    """What the runtime says of `target` after `context`, both token ids: a natural logarithm per token."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    token_log_probabilities: tuple[float, ...]


def runtime_ids(engine: litert_lm.Engine, text: str) -> list[int]:
    """What the model sees of a first prompt: the bundle's start token, if any, and the text's tokens."""
    start = engine.bos_token_id
    return ([] if start is None else [start]) + list(engine.tokenize(text))


def all_runtime_ids(engine: litert_lm.Engine, texts: Sequence[str]) -> list[list[int]]:
    """`runtime_ids` of each text."""
    return [runtime_ids(engine, text) for text in texts]


def stop_ids(engine: litert_lm.Engine) -> list[list[int]]:
    """The token sequences that end a text."""
    return [list(ids) for ids in engine.eos_token_ids]


def score_all(
    engine: litert_lm.Engine, prompts: Sequence[str], target: str, twins: Sequence[tuple[str, str]] = ()
) -> list[Score]:
    """`target` scored after each prompt; prompts need two tokens or more. `twins` are as in packaging.passage.Texts.

    Raises RuntimeFailed if the runtime refuses one.
    """
    rewinds = rewinds_before_scoring(engine, target, twins)
    return [score_text(engine, prompt, target, rewinds=rewinds) for prompt in prompts]


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


def rewinds_before_scoring(engine: litert_lm.Engine, target: str, twins: Sequence[tuple[str, str]]) -> bool:
    """Whether the runtime forgets the last token but one of a prompt before it scores, as 0.18.1 does.

    It steps back one position for a token that it has already held back. Found by scoring after two prompts
    that differ in just that token: equal to the last bit means forgotten. Generating is not affected.
    """
    for first, second in (*twins, *near_twins(engine)):
        scores = [score_text(engine, text, target, rewinds=False) for text in (first, second)]
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


def first_answer(engine: litert_lm.Engine, prompt: str) -> str:
    """The text of the first token that the model continues `prompt` with, greedily."""
    with engine.create_session(apply_prompt_template=False, sampler_config=GREEDY, max_output_tokens=1) as session:
        session.run_prefill([prompt])
        return "".join(text for part in session.run_decode_async() for text in part.texts)


def text_of(engine: litert_lm.Engine, ids: Sequence[int]) -> str:
    """What these tokens say."""
    return str(engine.detokenize(list(ids)))
