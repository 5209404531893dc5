"""What the runtime makes of texts and chats in a bundle that anybody made: a verdict for each of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from autoconvert.check.bundle import Spoken, check_messages, check_prompts
from autoconvert.check.chat import check_dialogues
from autoconvert.check.tokenizer import check_framing, check_readings, read_framing
from autoconvert.check.verdict import CONTRACT, FRAMING, TEMPLATE, TOKENIZER, Verdict, judged, not_checked
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.runtime.conversations import read_texts, render_dialogues
from autoconvert.runtime.engine import Asked, open_remote_engine


@dataclass(frozen=True)
class TextCheck:
    """A bundle beside the model's `tokenizer`; `room` is how many tokens a chat may have.

    The folder `packed` is for the bundle's packed weights, so that one engine after the other opens it at once.
    """

    bundle: Path
    packed: Path
    tokenizer: TokenizerSpec
    room: int

    def verdicts(self) -> Iterator[Verdict]:
        """Tokenizer, template, start and stop tokens."""
        yield judged(TOKENIZER, self._readings)
        if self.tokenizer.dialogues:
            yield judged(TEMPLATE, self._chats)
        else:
            notes = [note for note in self.tokenizer.notes if "template" in note]
            yield not_checked(TEMPLATE, "; ".join(notes) or "the model has no chat template")
        yield judged(FRAMING, self._framing)

    def prompts(self, prompts: Sequence[Spoken], tolerance: float) -> Verdict:
        """Whether the runtime gives the logits that the file's signatures give: a part of the contract."""
        return judged(CONTRACT, lambda: self._prompts(prompts, tolerance))

    def _engine(self) -> AbstractContextManager[Asked]:
        """One for each verdict: an engine may die of what it is asked."""
        return open_remote_engine(self.bundle, packed=self.packed)

    def _readings(self) -> str:
        wanted = self.tokenizer.readings
        with self._engine() as engine:
            check_readings(wanted, engine.ask(read_texts, [reading.text for reading in wanted]))
        return f"{len(wanted)} texts give {sum(len(reading.ids) for reading in wanted)} tokens as in the model's"

    def _chats(self) -> str:
        dialogues = self.tokenizer.dialogues
        with self._engine() as engine:
            check_dialogues(dialogues, engine.ask(render_dialogues, dialogues))
            check_messages(engine, self.tokenizer.encoder(), dialogues, self.room)
        turns = max(len(dialogue.questions) for dialogue in dialogues)
        return f"{len(dialogues)} chats of up to {turns} turns: {', '.join(dialogue.name for dialogue in dialogues)}"

    def _framing(self) -> str:
        wanted = self.tokenizer
        with self._engine() as engine:
            check_framing(wanted, *engine.ask(read_framing))
        start = "no token" if wanted.start is None else f"token {wanted.start}"
        return f"starts with {start}, stops at {', '.join(map(str, wanted.stops)) or 'none'}"

    def _prompts(self, prompts: Sequence[Spoken], tolerance: float) -> str:
        with self._engine() as engine:
            found = check_prompts(engine, prompts, self.tokenizer.texts.target, tolerance)
        lengths = ", ".join(map(str, found.lengths))
        return f"the runtime's log-probabilities are within {found.worst:.1e} at prompts of {lengths} tokens"
