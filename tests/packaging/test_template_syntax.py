"""Python in chat templates as the runtime's engine takes it."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from autoconvert.packaging.template_syntax import for_minijinja

REWRITTEN = {
    "{{ m.content.strip() }}": "{{ (m.content | trim()) }}",
    "{{ m['content'].split('</a>', 1)[1] }}": "{{ (m['content'] | split('</a>', 1))[1] }}",
    "{{ f(x).upper().split(y)[-1].lstrip('\\n') }}": "{{ (((f(x) | upper) | split(y))[-1] | lstrip('\\n')) }}",
    "{{ a + b[0].c.replace('(', ')') }}": "{{ a + (b[0].c | replace('(', ')')) }}",
    "{{ ', '.join(x.get('names', [])) }}": "{{ (((x['names'] | default([]))) | join(', ')) }}",
    "{{ x.startswith(')') and y is not none }}": "{{ (x is startingwith(')')) and y != none }}",
    "{% if (x or y).items() is none %}{% endif %}": "{% if ((x or y) | items) == none %}{% endif %}",
}


@pytest.mark.parametrize("source", REWRITTEN)
def test_methods_and_tests_for_none_are_written_as_minijinja_knows_them(source: str) -> None:
    assert for_minijinja(source) == REWRITTEN[source]


@pytest.mark.parametrize(
    "source", ["is none .strip() \n", "{{ ' x.strip() is none' }}", "{# a.split('b') #}{{- x }}\n\n"]
)
def test_texts_are_left_as_they_are(source: str) -> None:
    assert for_minijinja(source) == source


PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "is",
    "not",
    "none",
    ".strip()",
    ".split(",
    ".get('a',",
    ".join(",
    ")",
    "[",
    "]",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*PIECES, "x", "'", " ", "\n", "if", "endif", "\\"]) | st.text(max_size=3), max_size=20)
)
def test_any_text_is_rewritten_or_no_template(pieces: list[str]) -> None:
    source = "".join(pieces)
    with contextlib.suppress(TemplateError):
        once = for_minijinja(source)
        with contextlib.suppress(TemplateError):
            assert for_minijinja(once) == once
