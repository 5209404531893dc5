"""What the engine says of texts, without any chat template: token ids, log-probabilities, first answers.

These are questions for an engine, in this process or in another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import litert_lm

from autoconvert.runtime.engine import GREEDY
from autoconvert.runtime.failed import RuntimeFailed


@dataclass(frozen=True)
class Score:
    """What the runtime says of `target`, token ids, after a prompt: a natural logarithm per token."""

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


def score_all(engine: litert_lm.Engine, prompts: Sequence[str], target: str) -> list[Score]:
    """`target` scored after each prompt, in a session of its own; prompts need two tokens or more.

    Raises RuntimeFailed if the runtime refuses one.
    """
    return [score_text(engine, prompt, target) for prompt in prompts]


def score_text(engine: litert_lm.Engine, prompt: str, target: str) -> Score:
    """`target` scored after `prompt`."""
    with engine.create_session(apply_prompt_template=False) as session:
        try:
            session.run_prefill([prompt])
            found = session.run_text_scoring([target], True)
        except RuntimeError as error:
            raise RuntimeFailed(
                f"the runtime refused to score after a prompt of {len(runtime_ids(engine, prompt))} tokens: {error}",
                hint="Prompt and target must fit the bundle's context, with room for its smallest prefill.",
            ) from error
    return Score(tuple(engine.tokenize(target)), tuple(found.token_scores[0]))


def first_answer(engine: litert_lm.Engine, prompt: str) -> str:
    """The text of the first token that the model continues `prompt` with, greedily."""
    with engine.create_session(apply_prompt_template=False, sampler_config=GREEDY, max_output_tokens=1) as session:
        session.run_prefill([prompt])
        return "".join(text for part in session.run_decode_async() for text in part.texts)


def text_of(engine: litert_lm.Engine, ids: Sequence[int]) -> str:
    """What these tokens say."""
    return str(engine.detokenize(list(ids)))
