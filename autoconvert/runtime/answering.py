"""How a bundle answers, a piece of text at a time: questions for an engine, in this process or in another."""

from collections.abc import Iterator

import litert_lm

from autoconvert.runtime.engine import GREEDY


def converse(engine: litert_lm.Engine, prompt: str, max_tokens: int) -> Iterator[str]:
    """As a user would ask it."""
    with engine.create_conversation(sampler_config=GREEDY, max_output_tokens=max_tokens) as conversation:
        for message in conversation.send_message_async(prompt):
            yield str(message)


def complete(engine: litert_lm.Engine, prompt: str, max_tokens: int) -> Iterator[str]:
    """As the beginning of a text."""
    with engine.create_session(
        apply_prompt_template=False, sampler_config=GREEDY, max_output_tokens=max_tokens
    ) as session:
        session.run_prefill([prompt])
        for responses in session.run_decode_async():
            yield from responses.texts
