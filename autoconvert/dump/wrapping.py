"""Lines that fit a screen: a statement goes on within its brackets, its comment on lines of its own."""

import re
from collections.abc import Iterable, Iterator

WIDTH = 120
_DEEPER = " " * 4
# Of a comment, up to a comma or to where the next thing is told.
_PARTS = re.compile(r".+?(?:, |  |$)")
_OPENING, _CLOSING, _SIGN = "([{", ")]}", "# "


def wrapped(statement: str, comment: str = "", indent: str = "") -> str:
    """Lines of at most WIDTH columns, as far as the statement has commas; `comment` begins with its sign."""
    lines = list(_filled(_pieces(statement), indent, indent + _DEEPER))
    if comment and len(lines[-1]) + 2 + len(comment) <= WIDTH:
        lines[-1] = f"{lines[-1]}  {comment}"
    elif comment:
        lines += _filled(_PARTS.findall(comment), indent + _DEEPER, f"{indent}{_DEEPER}{_SIGN}")
    return "\n".join(lines)


def _filled(pieces: Iterable[str], first: str, others: str) -> Iterator[str]:
    """Lines of as many pieces as they have room for, behind these beginnings."""
    line = begin = first
    for piece in pieces:
        if line != begin and len(line) + len(piece.rstrip()) > WIDTH:
            yield line.rstrip()
            line = begin = others
        line += piece
    yield line.rstrip()


def _pieces(statement: str) -> Iterator[str]:
    """What may stand on lines of their own: up to a comma in brackets, a bracket that opens, or the type of a value."""
    begin = depth = 0
    quote = ""
    for index, letter in enumerate(statement):
        if letter in "\"'":
            quote = "" if quote == letter else quote or letter
        elif not quote:
            depth += (letter in _OPENING) - (letter in _CLOSING)
            is_type = not depth and statement[index : index + 3] == " : "
            if (depth and (letter == "(" or statement[index - 1 : index + 1] == ", ")) or is_type:
                yield statement[begin : index + 1]
                begin = index + 1
    yield statement[begin:]
