"""`autoconvert check FILE MODEL`: whether a file is the model that it is said to be."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from autoconvert.cli.failures import explained
from autoconvert.cli.quiet import quiet_libraries
from autoconvert.errors import CheckFailed

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

# As in autoconvert.driver.check_file, which takes seconds to import.
Verify = Literal["quick", "full"]


@app.command(no_args_is_help=True)
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .litertlm bundle or a .tflite, whoever made it.")],
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="What it was made of: a folder, a .gguf file, an id of the hub, or demo."),
    ],
    verify: Annotated[
        Verify,
        typer.Option(help="full reads and decodes texts to the end of the context; quick does as far as it is cheap."),
    ] = "quick",
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="A branch, tag or commit of a hub model.")
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="TOKEN", help="For gated and private hub models.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pytorch_model.bin where there are no safetensors.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of a failure.")] = False,
) -> None:
    """Compares a file, whoever made it, with the model that it was made of.

    Its signatures are called as the runtime calls them, and the logits compared with those of the unmodified
    model; of a bundle also what LiteRT-LM makes of texts and of chats. Each layer passes, fails, or says why
    it was not checked:

    \b
    contract               names, types and states that the runtime expects
    tokenizer              the same tokens for texts of many kinds
    template               chats of three turns, with a system message and tools
    start and stop tokens  those that begin a text and end an answer
    prefill, decode        a text in chunks, and token by token
    window                 a text longer than what attention looks back to
    end of context         the last positions that fit
    quantisation           what rounding changes, and whether that explains it
    receipt                sections as they were written, of the tensors that MODEL has

    \b
    autoconvert check model.litertlm google/gemma-3-270m-it
    autoconvert check model.tflite ./my-finetune --verify full

    Exit codes: 0 where nothing failed, 4 where a layer did, 2 for no such file or model.
    """
    console = Console(highlight=False)
    with explained(verbose=verbose):
        with quiet_libraries():
            from autoconvert.driver.check_file import check_file
            from autoconvert.report.table import display_on
            from autoconvert.report.verdicts import said_of

            with display_on(console) as display:
                verdicts = check_file(
                    file,
                    model,
                    verify=verify,
                    revision=revision,
                    token=token,
                    trust_remote_code=trust_remote_code,
                    allow_pickle=allow_pickle,
                    display=display,
                )
        console.print()
        for line in said_of(verdicts):
            console.print(line, soft_wrap=True)
        if any(verdict.outcome == "failed" for verdict in verdicts):
            raise typer.Exit(CheckFailed.exit_code)
