"""`autoconvert run FILE`: what a bundle says to a prompt."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoconvert.cli.failures import explained
from autoconvert.cli.quiet import silence_python

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .litertlm bundle.")],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to say to the model.")],
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="End after so many tokens.")] = 128,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of a failure.")] = False,
) -> None:
    """Runs a bundle in LiteRT-LM, the runtime of the phone, on this machine's processor.

    The most probable token is taken each time. A model with a chat template answers, one without
    continues the text.

    \b
    autoconvert run demo/model.litertlm --prompt "In the beginning" --max-tokens 40
    """
    with explained(verbose=verbose):
        silence_python()
        from autoconvert.runtime.generate import generate

        generate(file, prompt, max_tokens=max_tokens, on_text=_show)
        _show("\n")


def _show(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
