"""The chat template of a tokenizer, in the form in which the runtime renders what the tokenizer renders.

Several forms may do: the template as it is or adapted, the same resumed behind each answer, the text around each
turn. Each is tried in the runtime itself on the same dialogues; the best one is taken.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoconvert.errors import MachineError
from autoconvert.packaging.adapted_template import adapt, find_seam, resumed, without_tools
from autoconvert.packaging.affixes import Affixes, derive_affixes
from autoconvert.packaging.dialogues import ODD, Dialogue, assistant, dialogues, render, user, variables
from autoconvert.packaging.template_syntax import for_minijinja

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTENT = "Zaphod"


@dataclass(frozen=True)
class ChatTemplate:
    """How turns become text: as a template, as affixes, or either; the template is the one to use.

    `end_of_turn` is the special token after an assistant's text, None if the template writes none;
    `takes_thinking` says that the template reads `enable_thinking`.
    """

    jinja: str | None
    affixes: Affixes | None
    end_of_turn: int | None
    takes_thinking: bool


@dataclass(frozen=True)
class Turn:
    """What the runtime renders at a question: the chat `before` it, and `whole`; None where it fails.

    It feeds what `whole` has beyond `before`, and fails where it does not begin with it.
    """

    before: str | None
    whole: str | None


# What the runtime renders of dialogues, each a list of turns, with a form of the template.
Renderer = Callable[[ChatTemplate, Sequence[Dialogue]], list[list[Turn]]]


@dataclass(frozen=True)
class _Form:
    """A form of the template, and what was changed to make it."""

    chat: ChatTemplate
    changes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        if self.chat.jinja is None:
            return ("chat template reduced to the text before and after each turn: the runtime cannot render it",)
        changed = f"chat template rewritten for the runtime, to render there as here: {', '.join(self.changes)}"
        return (changed,) if self.changes else ()


@dataclass(frozen=True)
class _Verdict:
    """What a form makes of dialogues: those it renders in another way, those it fails at, those it feeds otherwise."""

    form: _Form
    wrong: tuple[Dialogue, ...]
    failed: tuple[Dialogue, ...]
    diverging: tuple[Dialogue, ...]

    @property
    def usable(self) -> bool:
        return not any(dialogue.telling for dialogue in (*self.wrong, *self.failed))

    @property
    def faults(self) -> tuple[int, int, int]:
        return len(self.wrong), len(self.failed), len(self.diverging)


def read_chat_template(
    tokenizer: "PreTrainedTokenizerBase", start_token: int | None, render_there: Renderer | None
) -> tuple[ChatTemplate | None, tuple[Dialogue, ...], tuple[str, ...]]:
    """The tokenizer's chat template as the runtime can take it, dialogues that it renders there, and notes.

    `start_token` is what the runtime will put before the first turn; `render_there` renders in the runtime, and
    without it the first form is taken untried. The template is None if there is none, or when it cannot render a plain
    user turn or no form of it does so in the runtime: a note says which. Notes say what was changed and why.
    """
    if not tokenizer.chat_template:
        return None, (), ()
    start = "" if start_token is None else token_text(tokenizer, start_token)
    # A template is a foreign program: it may raise anything.
    try:
        source = tokenizer.get_chat_template()
        render(tokenizer, source, [user(_CONTENT)])
        spoken = dialogues(tokenizer, source, start)
        forms = _forms(tokenizer, source, start)
    except Exception as error:
        return None, (), (f"chat template left out: it cannot render a user turn ({_first_line(error)})",)
    if not spoken:
        return None, (), ("chat template left out: it renders no question up to where its answer begins",)
    notes = tuple(_peculiarities(spoken, start, render(tokenizer, source, [user(_CONTENT)])))
    if render_there is None:
        return forms[0].chat, spoken, notes + forms[0].notes
    ends_answer = _end_text(tokenizer, forms[0].chat.end_of_turn)
    verdicts = [_judge(form, spoken, ends_answer, _tried(render_there, form, spoken)) for form in forms]
    usable = [verdict for verdict in verdicts if verdict.usable]
    if not usable:
        return None, (), ("chat template left out: the runtime cannot render it as the tokenizer does",)
    best = min(usable, key=lambda verdict: verdict.faults)
    left_out = {dialogue.name for dialogue in (*best.wrong, *best.failed)}
    right = tuple(dialogue for dialogue in spoken if dialogue.name not in left_out)
    return best.form.chat, right, notes + best.form.notes + _shortcomings(best)


def _forms(tokenizer: "PreTrainedTokenizerBase", source: str, start: str) -> list[_Form]:
    """Forms of the template, the most faithful ones first."""
    end_of_turn = end_of_turn_token(tokenizer, source)
    thinks = "enable_thinking" in variables(source)
    affixes = derive_affixes(tokenizer, source, start)
    adapted, changes = adapt(tokenizer, source, start)
    texts = [(adapted, changes)]
    if (rewritten := for_minijinja(adapted)) != adapted:
        texts.append((rewritten, (*changes, "methods and tests written as the runtime knows them")))
    seam = find_seam(tokenizer, source, _end_text(tokenizer, end_of_turn))
    if seam is not None:
        resumes = "a chat resumed right behind the last answer"
        texts += [(resumed(text, seam), (*changes, resumes)) for text, changes in texts]
    if "tools" in variables(source):
        texts += [(without_tools(text), changes) for text, changes in texts]
    forms = [_Form(ChatTemplate(text, affixes, end_of_turn, thinks), changes) for text, changes in texts]
    if affixes is not None:
        forms.append(_Form(ChatTemplate(None, affixes, end_of_turn, False)))
    return forms


def _tried(render_there: Renderer, form: _Form, spoken: Sequence[Dialogue]) -> list[list[Turn]]:
    """What the runtime renders with `form`; nothing where it does not even take it."""
    try:
        return render_there(form.chat, spoken)
    except MachineError:
        raise
    except Exception:
        return [[Turn(None, None)] * len(dialogue.questions) for dialogue in spoken]


def _judge(form: _Form, spoken: Sequence[Dialogue], ends_answer: str, rendered: Sequence[Sequence[Turn]]) -> _Verdict:
    wrong, failed, diverging = [], [], []
    for dialogue, turns in zip(spoken, rendered, strict=True):
        if any(turn.whole is None or turn.before is None for turn in turns):
            failed.append(dialogue)
        elif differing_turn(dialogue, turns) is not None:
            wrong.append(dialogue)
        elif _diverges(dialogue, turns, ends_answer):
            diverging.append(dialogue)
    return _Verdict(form, tuple(wrong), tuple(failed), tuple(diverging))


def differing_turn(dialogue: Dialogue, turns: Sequence[Turn]) -> int | None:
    """The first turn that the runtime renders in another way or cannot go on to; None if there is none."""
    for number, (turn, wanted) in enumerate(zip(turns, dialogue.renderings, strict=True)):
        if turn.whole != wanted or turn.before is None or not turn.whole.startswith(turn.before):
            return number
    return None


def _diverges(dialogue: Dialogue, turns: Sequence[Turn], ends_answer: str) -> bool:
    """Whether what is fed turn by turn, with the answers between, is not the rendering of the whole."""
    fed = ""
    for number, turn in enumerate(turns):
        assert turn.before is not None and turn.whole is not None
        fed += turn.whole.removeprefix(turn.before)
        if fed != turn.whole:
            return True
        fed += dialogue.answers[number] + ends_answer if number < len(dialogue.answers) else ""
    return False


def _peculiarities(spoken: Sequence[Dialogue], start: str, rendered: str) -> Iterator[str]:
    """What an app should know of a template, whatever its form."""
    if len(spoken[0].questions) < 2:
        yield "the chat template takes one question, and none after its answer"
    if not rendered.startswith(start):
        yield f"a chat starts with {start}, as the tokenizer starts a text; its template writes none"


def _shortcomings(verdict: _Verdict) -> tuple[str, ...]:
    wrong = [dialogue.name for dialogue in verdict.wrong]
    failed = [dialogue.name for dialogue in verdict.failed]
    # Where earlier turns are written anew in a plain chat, they are in each.
    diverging = [dialogue.name for dialogue in verdict.diverging if dialogue.name != ODD]
    if verdict.diverging and verdict.diverging[0].telling:
        diverging = ["of several turns"]
    found = (
        (wrong, "is not rendered as the tokenizer does: keep to plain turns"),
        (failed, "fails in the runtime"),
        (diverging, "keeps earlier answers as the model wrote them, where the tokenizer's template writes them anew"),
    )
    return tuple(f"a chat {' or '.join(names)} {what}" for names, what in found if names)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def token_text(tokenizer: "PreTrainedTokenizerBase", token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def _end_text(tokenizer: "PreTrainedTokenizerBase", end_of_turn: int | None) -> str:
    return "" if end_of_turn is None else token_text(tokenizer, end_of_turn)


def end_of_turn_token(tokenizer: "PreTrainedTokenizerBase", source: str) -> int | None:
    """The special token that follows an assistant's text, but for white space; None if there is none."""
    try:
        rendered = render(tokenizer, source, [user(_CONTENT), assistant(_CONTENT * 2)])
    except Exception:
        return None
    _, found, tail = rendered.rpartition(_CONTENT)
    special = set(tokenizer.all_special_ids) | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    ids = tokenizer.encode(tail.lstrip(), add_special_tokens=False) if found else []
    return ids[0] if ids and ids[0] in special else None
