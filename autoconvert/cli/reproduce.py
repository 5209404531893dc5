"""`autoconvert reproduce FOLDER`: a failed check again, from the folder that it has left."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from autoconvert.cli.failures import explained
from autoconvert.cli.quiet import quiet_libraries
from autoconvert.errors import CheckFailed

if TYPE_CHECKING:
    from autoconvert.driver.reproduce import Reproduction

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def reproduce(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What a failed check has left, NAME-failure.")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="The model, where random weights do not do: a folder, a .gguf file, an id of the hub, or demo. "
            "Default: where it was.",
        ),
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="TOKEN", help="For gated and private hub models.")] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the Python code that lies in FOLDER, or comes with MODEL."),
    ] = False,
    dump: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write what every pass makes of the graph, as autoconvert MODEL does."),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of a failure.")] = False,
) -> None:
    """Makes a failed check fail again, from the folder that it has left.

    A conversion that a check ends leaves NAME-failure beside where its files would have gone. It holds
    configuration, code, tokenizer, patterns and settings, and the graphs around what is to blame. Where random
    weights of the same size make it fail as well, nothing else is needed; its README.md says so.

    \b
    autoconvert reproduce my-model-failure
    autoconvert reproduce my-model-failure --dump passes
    autoconvert reproduce my-model-failure ./my-model

    Exit codes: 4 where it still fails, as before or otherwise, which is said; 0 where it no longer does.
    """
    console = Console(highlight=False)
    with explained(verbose=verbose):
        with quiet_libraries():
            from autoconvert.driver.reproduce import reproduce as reproduced
            from autoconvert.report.table import display_on

            with display_on(console) as display:
                found = reproduced(
                    folder, model, token=token, trust_remote_code=trust_remote_code, dump=dump, display=display
                )
        console.print()
        for line in _said(found):
            console.print(line, markup=False, soft_wrap=True)
        if found.now is not None:
            raise typer.Exit(CheckFailed.exit_code)


def _said(found: "Reproduction") -> list[str]:
    """How it ended, as lines."""
    others = [f"{name} {then} then, {now} now" for name, (then, now) in found.versions.items()]
    versions = [f"versions    {'; '.join(others)}"] if others else []
    if found.now is None:
        return [f"no longer fails: every check passes. It was: {found.before}", *versions]
    ended = "fails as before" if found.fails_as_before else "fails in another way"
    before = [] if found.fails_as_before else [f"before      {found.before}"]
    return [f"{ended}: {found.now}", found.now.message, *before, *versions]
