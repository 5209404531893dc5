"""`autoconvert patterns`: the building blocks that are known."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoconvert.cli.failures import explained
from autoconvert.cli.quiet import silence_python

if TYPE_CHECKING:
    from autoconvert.rewrite.pattern import Pattern

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def patterns(
    files: Annotated[
        list[Path] | None,
        typer.Option("--patterns", metavar="FILE.py", help="Also those of this file, which is checked thereby."),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of a failure.")] = False,
) -> None:
    """Lists the patterns by the kind of block, in the order in which they are tried, and where each is written.

    Patterns of a file come first, then those that installed packages bring under the entry point
    autoconvert.patterns, then the built-in ones. Each pattern of a file is checked alone: it must find itself,
    and both of its functions must give the same numbers.

    \b
    autoconvert patterns
    autoconvert patterns --patterns my_blocks.py

    \b
    Exit codes:
      0  every pattern is in order
      2  one is not: its file, its line and what is wrong
    """
    with explained(verbose=verbose):
        silence_python()
        from autoconvert.driver.library import in_order, libraries

        for line in _listing(in_order(libraries(files or ()))):
            typer.echo(line)


def _listing(known: "Sequence[Pattern]") -> Iterator[str]:
    # Kinds in the order in which their first pattern is tried.
    kinds = list(dict.fromkeys(pattern.block for pattern in known))
    width = max(len(pattern.name) for pattern in known)
    for kind, group in groupby(sorted(known, key=lambda pattern: kinds.index(pattern.block)), lambda p: p.block):
        yield kind
        yield from (f"  {pattern.name:{width}}  {_place(pattern.source)}" for pattern in group)


def _place(source: str) -> str:
    """As it is imported, or as it was given."""
    roots = sorted({Path(root) for root in sys.path if root}, key=lambda root: -len(root.parts))
    path = Path(source)
    return str(next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path))
