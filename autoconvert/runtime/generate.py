"""Text from a bundle, through the runtime that a phone uses."""

from collections.abc import Callable
from pathlib import Path

from autoconvert.packaging.litertlm import read_llm_metadata
from autoconvert.runtime.answering import complete, converse
from autoconvert.runtime.engine import open_remote_engine
from autoconvert.runtime.failed import RuntimeFailed


def generate(bundle: Path, prompt: str, *, max_tokens: int, on_text: Callable[[str], None] = lambda text: None) -> str:
    """The bundle's greedy answer to `prompt`, at most `max_tokens` tokens long; `on_text` gets each piece.

    A bundle with a chat template is asked as a user would, one without continues the text. Raises InputError
    if `bundle` is no bundle, RuntimeFailed if the runtime cannot load it or stops halfway.
    """
    metadata = read_llm_metadata(bundle)
    chats = bool(metadata.jinja_prompt_template) or metadata.HasField("prompt_templates")
    pieces = []
    with open_remote_engine(bundle) as engine:
        answer = engine.pieces(converse if chats else complete, prompt, max_tokens)
        try:
            for piece in answer:
                pieces.append(piece)
                on_text(piece)
        except RuntimeError as error:
            prompt_fits = f"A prompt must not be empty and must fit {metadata.max_num_tokens} tokens; if it does,"
            raise RuntimeFailed(
                f"the runtime stopped after {len(pieces)} pieces of text: {error}",
                hint=f"{'The runtime took the prompt:' if pieces else prompt_fits} convert the model again with "
                "--verify full to see whether the bundle is to blame.",
            ) from error
    return "".join(pieces)
