import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoconvert.packaging.affixes import Affixes, derive_affixes
from autoconvert.packaging.chat_template import ChatTemplate, differing_turn, read_chat_template
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.packaging.tokenizer import read_tokenizer
from autoconvert.runtime.engine import open_engine
from autoconvert.runtime.stub import render_in_stub
from tests.packaging.tiny_bundle import bundle, byte_level_tokenizer, tiny_folder

TURNS = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ CONTENT }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {
    "string content": TURNS.replace("CONTENT", "message['content']"),
    "start token by name": "{{ bos_token }}" + TURNS.replace("CONTENT", "message['content']"),
    "start token spelled out": "<s>" + TURNS.replace("CONTENT", "message['content']"),
    "end token by name": TURNS.replace("CONTENT", "message.content + eos_token"),
    "parts or string": TURNS.replace(
        "{{ CONTENT }}",
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}",
    ),
    "generation tags": TURNS.replace(
        "{{ CONTENT }}",
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
        "{% else %}{{ message.content }}{% endif %}",
    ),
    "string methods": TURNS.replace("CONTENT", "message['content'].strip()"),
    "dictionary methods": TURNS.replace("CONTENT", "message.get('name', 'no') + message.get('content')"),
    "case methods": TURNS.replace("CONTENT", "message.content.upper() + message.role.title()"),
    "slices": "{% for m in messages[::-1] %}{% if loop.first %}{{ m.role }}{% endif %}{% endfor %}"
    + TURNS.replace("CONTENT", "message.content.split('</think>')[-1].lstrip('\\n')"),
    "nested methods": TURNS.replace("CONTENT", "message.content.split('</a>', 1)[-1].replace('(', ')').strip()"),
    "none": "{% set kept = none %}{% if kept is not none %}never{% endif %}"
    + TURNS.replace("CONTENT", "message.content if message.tool_calls is not defined else ''"),
    "date": "{{ strftime_now('%d %b %Y') }}" + TURNS.replace("CONTENT", "message.content"),
    "new line at the end": TURNS.replace("CONTENT", "message.content") + "\n",
    "leading blanks": "  " + TURNS.replace("CONTENT", "message['content'] | trim"),
    "leading new line": "\n" + TURNS.replace("CONTENT", "message['content'] | trim"),
}
HISTORY = [
    {"role": "user", "content": "Where is the cat?"},
    {"role": "assistant", "content": "On the mat."},
]


def read(
    template: str, *, prepends_start: bool = False
) -> tuple[ChatTemplate | None, tuple[Dialogue, ...], tuple[str, ...]]:
    tokenizer = byte_level_tokenizer(prepends_start=prepends_start, chat_template=template)
    return read_chat_template(tokenizer, 0 if prepends_start else None, render_in_stub)


def chat(template: str, *, prepends_start: bool) -> ChatTemplate:
    found, _, _ = read(template, prepends_start=prepends_start)
    assert found is not None
    return found


@pytest.mark.parametrize("prepends_start", [True, False])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_runtime_renders_what_the_tokenizer_renders(tmp_path: Path, template: str, prepends_start: bool) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=prepends_start, chat_template=template)
    start = 0 if prepends_start else None
    spec = dataclasses.replace(
        read_tokenizer(tiny_folder()), start=start, chat=chat(template, prepends_start=prepends_start)
    )
    with open_engine(bundle(tmp_path / "model.litertlm", spec)) as engine:
        with engine.create_conversation() as first:
            opening = first.render_message_to_string("Hello")
        with engine.create_conversation(messages=HISTORY) as second:
            later = second.render_message_to_string("Hello")
    turn = {"role": "user", "content": "Hello"}
    wanted = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert opening == wanted.removeprefix("<s>" if prepends_start else "")
    dialogue = tokenizer.apply_chat_template([*HISTORY, turn], tokenize=False, add_generation_prompt=True)
    assert dialogue.endswith(later)


def test_a_template_that_needs_nothing_is_kept_verbatim() -> None:
    template = TEMPLATES["parts or string"].replace("<|end|>\n", "<|end|>")
    assert chat(template, prepends_start=False).jinja == template


def test_end_of_turn_is_none_where_no_special_token_ends_a_turn() -> None:
    template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    assert chat(template, prepends_start=False).end_of_turn is None


def test_thinking_is_supported_where_the_template_asks_for_it() -> None:
    asks = TEMPLATES["string content"] + "{% if enable_thinking %}<think>{% endif %}"
    assert chat(asks, prepends_start=False).takes_thinking
    assert not chat(TEMPLATES["string content"], prepends_start=False).takes_thinking


def test_a_template_that_fails_is_left_out_with_the_reason() -> None:
    found, _, notes = read("{{ raise_exception('tools needed') }}")
    assert found is None
    assert "tools needed" in notes[0]


@pytest.mark.parametrize("name", ["string content", "start token by name"])
def test_affixes_render_like_the_template_in_the_runtime(tmp_path: Path, name: str) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=TEMPLATES[name])
    affixes = derive_affixes(tokenizer, TEMPLATES[name], "<s>")
    assert affixes == Affixes(
        ("<|user|>\n", "<|end|>\n"), ("<|assistant|>\n", "<|end|>\n"), ("<|system|>\n", "<|end|>\n")
    )
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), chat=ChatTemplate(None, affixes, 6, False))
    with (
        open_engine(bundle(tmp_path / "model.litertlm", spec)) as engine,
        engine.create_conversation() as conversation,
    ):
        rendered = conversation.render_message_to_string("Hello")
    turn = {"role": "user", "content": "Hello"}
    wanted = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert rendered == wanted.removeprefix("<s>")


def test_a_template_beyond_the_runtime_becomes_affixes() -> None:
    template = TURNS.replace("CONTENT", "message['content'].removeprefix('never there')")
    found = chat(template, prepends_start=False)
    assert found.jinja is None
    assert found.affixes is not None


def test_turns_that_depend_on_their_number_have_no_affixes() -> None:
    template = "{% for message in messages %}{{ loop.index }}: {{ message['content'] }}\n{% endfor %}"
    tokenizer = byte_level_tokenizer(prepends_start=False, chat_template=template)
    assert derive_affixes(tokenizer, template, "") is None


# Earlier answers lose their thinking, and the last answer gets some, as reasoning models' templates do.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\n"
    "{% if loop.last %}<think>\n</think>{% endif %}{{ m.content.split('</think>')[-1] }}<|end|>\n"
    "{% else %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize("template", [FORGETFUL, *TEMPLATES.values()], ids=["forgets thinking", *TEMPLATES])
def test_each_rendering_begins_with_the_one_before(template: str) -> None:
    form, dialogues, _ = read(template)
    assert form is not None
    assert {"of plain turns", "with a system message"} <= {dialogue.name for dialogue in dialogues}
    for dialogue, turns in zip(dialogues, render_in_stub(form, dialogues), strict=True):
        assert len(turns) == 3
        assert differing_turn(dialogue, turns) is None


@pytest.mark.parametrize("name", ["string content", "parts or string", "end token by name"])
def test_what_is_fed_turn_by_turn_is_the_rendering_of_the_whole(name: str) -> None:
    form, dialogues, _ = read(TEMPLATES[name])
    assert form is not None
    (turns,) = render_in_stub(form, dialogues[:1])
    fed = ""
    for turn, answer in zip(turns, (*dialogues[0].answers, ""), strict=True):
        assert turn.whole is not None and turn.before is not None
        # The model ends its answer with this token, which the runtime feeds with it.
        fed += turn.whole.removeprefix(turn.before) + answer + ("</s>" if name == "end token by name" else "<|end|>")
    assert fed.removesuffix("</s>").removesuffix("<|end|>") == turns[-1].whole


def test_a_template_that_writes_answers_anew_says_that_the_runtime_does_not() -> None:
    _, dialogues, notes = read(FORGETFUL)
    assert any("think tags" in dialogue.name for dialogue in dialogues)
    assert any("keeps earlier answers as the model wrote them" in note for note in notes)


def test_a_template_whose_tools_the_runtime_renders_takes_them() -> None:
    template = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    form, dialogues, _ = read(template + TEMPLATES["string content"])
    assert form is not None and form.jinja is not None
    assert [dialogue.name for dialogue in dialogues if dialogue.tools]


@pytest.mark.parametrize(
    "shown", ["tools[0]", "tools[0].function.values() | list"], ids=["in another way", "not at all"]
)
def test_a_template_whose_tools_the_runtime_does_not_render_so_refuses_them(shown: str) -> None:
    template = f"{{% if tools %}}{{{{ {shown} }}}}{{% endif %}}"
    form, dialogues, notes = read(template + TEMPLATES["string content"])
    assert form is not None
    assert not any(dialogue.tools for dialogue in dialogues)
    assert any("with tools and no system message fails in the runtime" in note for note in notes)
    with_tools = dataclasses.replace(dialogues[0], tools=({"function": {"name": "f"}},))
    assert render_in_stub(form, [with_tools])[0][0].whole is None
    assert render_in_stub(form, dialogues[:1])[0][0].whole == dialogues[0].renderings[0]


def test_a_template_for_one_question_says_so() -> None:
    template = (
        "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}Q: {{ messages[0].content }}\nA:"
    )
    form, dialogues, notes = read(template)
    assert form is not None
    assert [len(dialogue.questions) for dialogue in dialogues] == [1]
    assert any("takes one question" in note for note in notes)


def test_a_template_that_the_runtime_cannot_run_and_that_is_no_affixes_is_left_out() -> None:
    template = (
        "{% for m in messages %}{{ loop.index }}{% if m.role == 'x' %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    )
    form, _, notes = read(template)
    assert form is None
    assert notes == ("chat template left out: the runtime cannot render it as the tokenizer does",)


def test_a_template_whose_text_no_bundle_can_hold_becomes_affixes() -> None:
    form, _, notes = read(TEMPLATES["string content"] + "{# \ud800 #}")
    assert form is not None and form.jinja is None
    assert "reduced to the text before and after each turn" in notes[0]


PARTS = st.sampled_from(
    [
        "{% for m in messages %}",
        "{% endfor %}",
        "{{ m.content }}",
        "{{ m['role'] }}",
        "{% if loop.last %}",
        "{% if add_generation_prompt %}",
        "{% endif %}",
        "{{ bos_token }}",
        "<|user|>",
        "<|end|>\n",
        "{{ m.content.split('</t>')[-1] | trim }}",
        "{{ x[0] }}",
        "{{ tools | tojson }}",
        "{{ 1 // 0 }}",
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(PARTS | st.text(max_size=4), max_size=12).map("".join))
def test_any_template_renders_alike_in_the_runtime_or_is_left_out_with_a_note(template: str) -> None:
    form, dialogues, notes = read(template)
    if form is None:
        assert not template or any("left out" in note for note in notes)
        return
    for dialogue, turns in zip(dialogues, render_in_stub(form, dialogues), strict=True):
        assert differing_turn(dialogue, turns) is None
