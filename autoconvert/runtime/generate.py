"""Text from a bundle, through the runtime that a phone uses."""

from collections.abc import Callable, Iterator
from pathlib import Path

import litert_lm

from autoconvert.packaging.litertlm import read_llm_metadata
from autoconvert.runtime.engine import GREEDY, RuntimeFailed, open_engine


def generate(bundle: Path, prompt: str, *, max_tokens: int, on_text: Callable[[str], None] = lambda text: None) -> str:
    """The bundle's greedy answer to `prompt`, at most `max_tokens` tokens long; `on_text` gets each piece.

    A bundle with a chat template is asked as a user would, one without continues the text. Raises InputError
    if `bundle` is no bundle, RuntimeFailed if the runtime cannot load it or stops halfway.
    """
    metadata = read_llm_metadata(bundle)
    chats = bool(metadata.jinja_prompt_template) or metadata.HasField("prompt_templates")
    pieces = []
    with open_engine(bundle) as engine:
        answer = converse(engine, prompt, max_tokens) if chats else complete(engine, prompt, max_tokens)
        try:
            for piece in answer:
                pieces.append(piece)
                on_text(piece)
        except RuntimeError as error:
            raise RuntimeFailed(
                f"the runtime stopped after {len(pieces)} pieces of text: {error}",
                hint=f"A prompt must not be empty and must fit {metadata.max_num_tokens} tokens; if it does, "
                "convert the model again with --verify full.",
            ) from error
    return "".join(pieces)


def converse(engine: litert_lm.Engine, prompt: str, max_tokens: int) -> Iterator[str]:
    with engine.create_conversation(sampler_config=GREEDY, max_output_tokens=max_tokens) as conversation:
        for message in conversation.send_message_async(prompt):
            yield str(message)


def complete(engine: litert_lm.Engine, prompt: str, max_tokens: int) -> Iterator[str]:
    with engine.create_session(
        apply_prompt_template=False, sampler_config=GREEDY, max_output_tokens=max_tokens
    ) as session:
        session.run_prefill([prompt])
        for responses in session.run_decode_async():
            yield from responses.texts
