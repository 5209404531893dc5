"""The command line: `autoconvert MODEL` converts, `plan MODEL` foretells it, `run FILE` answers; one file a command.

`check FILE MODEL` compares a file with the model that it is said to be, `inspect DIR|FILE` shows a dump or what a file
runs, `patterns` lists the building blocks that are known, `explain MODEL` says which of them are in a model,
`reproduce FOLDER` makes a failed check again.
"""

import sys
from collections.abc import Sequence

import typer

from autoconvert.cli.check import app as check_app
from autoconvert.cli.convert import app as convert_app
from autoconvert.cli.explain import app as explain_app
from autoconvert.cli.inspect import app as inspect_app
from autoconvert.cli.output import open_what_is_closed
from autoconvert.cli.patterns import app as patterns_app
from autoconvert.cli.plan import app as plan_app
from autoconvert.cli.reproduce import app as reproduce_app
from autoconvert.cli.run import app as run_app
from autoconvert.system.interruption import raise_interrupts
from autoconvert.system.memory import collect_seldom

# A first word that is none of these is a model to convert.
COMMANDS: dict[str, typer.Typer] = {
    "check": check_app,
    "explain": explain_app,
    "inspect": inspect_app,
    "patterns": patterns_app,
    "plan": plan_app,
    "reproduce": reproduce_app,
    "run": run_app,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The console entry point; ends the process with the exit code of `autoconvert.errors`, or with 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        collect_seldom()
    open_what_is_closed()
    raise_interrupts()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark instead of an exception.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if words and words[0] in COMMANDS:
        COMMANDS[words[0]](words[1:], prog_name=f"autoconvert {words[0]}")
    else:
        convert_app(words, prog_name="autoconvert")
