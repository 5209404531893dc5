"""Python in a chat template as minijinja writes it: methods as filters, comparisons with none as such.

The runtime rewrites some methods itself, by regular expressions that miss what is nested or indexed.
"""

from collections.abc import Callable
from functools import partial

from jinja2.sandbox import ImmutableSandboxedEnvironment

# Kind and text, as the lexer gives them.
_Token = tuple[str, str]


def _looked_up(value: str, given: str) -> str:
    key, comma, default = given.partition(",")
    return f"({value}[{key.strip()}] | default({default.strip()}))" if comma else f"({value}[{key.strip()}])"


# Of a value and the arguments of its method, what minijinja knows instead.
_METHODS: dict[str, Callable[[str, str], str]] = {
    **{name: partial("({1} | {0})".format, name) for name in ("upper", "lower", "title", "capitalize", "items")},
    **{name: partial("({1} | {0}({2}))".format, name) for name in ("lstrip", "rstrip", "split", "replace")},
    "strip": "({0} | trim({1}))".format,
    "join": "(({1}) | join({0}))".format,
    "startswith": "({0} is startingwith({1}))".format,
    "get": _looked_up,
    "endswith": "({0} is endingwith({1}))".format,
}
_CLOSES = {")": "(", "]": "[", "}": "{"}
_OPENS = frozenset(_CLOSES.values())


def for_minijinja(source: str) -> str:
    """`source` with its methods and comparisons with none rewritten; as it is where it has none.

    Raises TemplateError if it is no template.
    """
    lexer = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"], keep_trailing_newline=True)
    tokens = [(kind, text) for _, kind, text in lexer.lex(source)]
    rewritten = _with_comparisons(_with_filters(tokens))
    return _joined(rewritten) if rewritten != tokens else source


def _with_filters(tokens: list[_Token]) -> list[_Token]:
    """The calls of known methods as filters, the innermost and the leftmost first."""
    done: list[_Token] = []
    at = 0
    while at < len(tokens):
        name = tokens[at + 1] if at + 2 < len(tokens) else ("", "")
        called = tokens[at] == ("operator", ".") and name[1] in _METHODS and tokens[at + 2] == ("operator", "(")
        end = _closing(tokens, at + 2) if called else None
        begin = _primary(done)
        if end is None or begin == len(done):
            done.append(tokens[at])
            at += 1
            continue
        arguments = _joined(_with_comparisons(_with_filters(tokens[at + 3 : end])))
        done[begin:] = [("name", _METHODS[name[1]](_joined(done[begin:]), arguments))]
        at = end + 1
    return done


def _with_comparisons(tokens: list[_Token]) -> list[_Token]:
    """Tests for none, which the runtime passes for what is undefined alone, as comparisons."""
    done: list[_Token] = []
    for token in tokens:
        if token in (("name", "none"), ("name", "None")):
            words = [text for _, text in done if text.strip()][-2:]
            for test, comparison in ((["is", "not"], "!="), (["is"], "==")):
                if words[-len(test) :] == test:
                    for word in reversed(test):
                        while done.pop()[1] != word:
                            pass
                    done.append(("operator", f"{comparison} "))
                    break
        done.append(token)
    return done


def _primary(done: list[_Token]) -> int:
    """Where the value begins that `done` ends with: a name or a literal with its attributes, calls and subscripts."""
    at = len(done)
    while at:
        kind, text = done[at - 1]
        if kind == "operator" and text in _CLOSES:
            at = _opening(done, at - 1)
            if (at and done[at - 1][0] in ("name", "string")) or (at and done[at - 1][1] in _CLOSES):
                continue
            return at
        if kind not in ("name", "string"):
            return at
        at -= 1
        if at and done[at - 1] == ("operator", "."):
            at -= 1
            continue
        return at
    return at


def _opening(tokens: list[_Token], at: int) -> int:
    depth = 0
    for place in range(at, -1, -1):
        text = tokens[place][1] if tokens[place][0] == "operator" else ""
        depth += (text in _CLOSES) - (text in _OPENS)
        if depth == 0:
            return place
    return 0


def _closing(tokens: list[_Token], at: int) -> int | None:
    depth = 0
    for place in range(at, len(tokens)):
        text = tokens[place][1] if tokens[place][0] == "operator" else ""
        depth += (text in _OPENS) - (text in _CLOSES)
        if depth == 0:
            return place
    return None


def _joined(tokens: list[_Token]) -> str:
    return "".join(text for _, text in tokens)
