"""Chats of several turns, in the runtime and as data."""

import dataclasses
from pathlib import Path

import pytest

from autoconvert.check.chat import ask_in_turn, check_answered, check_dialogues
from autoconvert.check.tokenizer import check_readings
from autoconvert.errors import CheckFailed
from autoconvert.packaging.chat_template import ChatTemplate, Turn
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.packaging.tokenizer import read_tokenizer
from autoconvert.packaging.tokenizer_section import Reading
from autoconvert.runtime.conversations import render_dialogues
from autoconvert.runtime.engine import open_engine
from autoconvert.runtime.stub import open_stub
from tests.packaging.tiny_bundle import bundle, tiny_folder

DIALOGUE = Dialogue("of two turns", (), ("a", "b"), ("c",), renderings=("a:", "a:c;b:"))
# The last message is rendered in another way than earlier ones.
IMPATIENT = "{% for m in messages %}<{{ m.role }}{% if loop.last %}!{% endif %}>{{ m.content[0].text }}{% endfor %}"


def test_renderings_that_are_the_source_s_and_go_on_from_each_other_pass() -> None:
    check_dialogues([DIALOGUE], [[Turn("", "a:"), Turn("a:c;", "a:c;b:")]])


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (Turn("a:c;", "a:c.b:"), "renders question 2 of a chat of two turns as 'a:c.b:'"),
        (Turn("a:c!", "a:c;b:"), "question 2 of a chat of two turns fails"),
        (Turn("a:c;", None), "renders question 2 of a chat of two turns as None"),
        (Turn(None, "a:c;b:"), "question 2 of a chat of two turns fails"),
    ],
)
def test_another_rendering_or_one_that_does_not_go_on_fails(second: Turn, says: str) -> None:
    with pytest.raises(CheckFailed, match=says):
        check_dialogues([DIALOGUE], [[Turn("", "a:"), second]])


def test_a_second_message_that_fails_in_the_runtime_is_found_by_both_checks() -> None:
    spec = read_tokenizer(tiny_folder())
    impatient = dataclasses.replace(spec, chat=ChatTemplate(IMPATIENT, None, None, False))
    wanted = dataclasses.replace(
        DIALOGUE, renderings=("<user!>a", "<user>a<assistant>c<user!>b"), questions=("a", "b"), answers=("c",)
    )
    with open_stub(impatient) as engine:
        rendered = engine.ask(render_dialogues, [wanted])
    with pytest.raises(CheckFailed, match="question 2 of a chat of two turns fails in the runtime"):
        check_dialogues([wanted], rendered)


def test_messages_are_answered_one_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "model.litertlm"
    with open_engine(bundle(file)) as engine:
        assert ask_in_turn(engine, (), ("Hi", "And?")) == 2
    impatient = dataclasses.replace(read_tokenizer(tiny_folder()), chat=ChatTemplate(IMPATIENT, None, None, False))
    with open_engine(bundle(file, impatient)) as engine:
        answered = ask_in_turn(engine, (), ("Hi", "And?"))
    with pytest.raises(CheckFailed, match="message 2 of a chat fails in the runtime"):
        check_answered(("Hi", "And?"), answered)


def test_other_tokens_fail_with_the_first_that_differs() -> None:
    wanted = [Reading("a b", (1, 2, 3))]
    check_readings(wanted, [[1, 2, 3]])
    with pytest.raises(CheckFailed, match=r"as \[5\] from token 2 on, the source's tokenizer as \[3\]"):
        check_readings(wanted, [[1, 2, 5]])
    with pytest.raises(CheckFailed, match="from token 2 on"):
        check_readings(wanted, [[1, 2]])
