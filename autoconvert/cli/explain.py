"""`autoconvert explain MODEL`: which blocks were fused, which were not, and why."""

import shlex
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from autoconvert.cli.asked import asked
from autoconvert.cli.failures import explained
from autoconvert.cli.output import stdout_console
from autoconvert.cli.quiet import quiet_libraries

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a .gguf file, an id of the hub, or demo.")],
    context: Annotated[int | None, typer.Option(metavar="N", help="As for converting.")] = None,
    patterns: Annotated[
        list[Path] | None, typer.Option("--patterns", metavar="FILE.py", help="As for converting.")
    ] = None,
    scaffold: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.py",
            help="Also write the beginning of a pattern for what is missing, or else for the first block that was not "
            "fused. Where no operation gives the same numbers, what the block becomes is for you to finish.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="A branch, tag or commit of a hub model.")
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="TOKEN", help="For gated and private hub models.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of a failure.")] = False,
) -> None:
    """Says which blocks of a model were fused, and by which pattern; what was not, and why; and what is missing.

    No weight is read: of a hub model only the configuration, the tokenizer and the headers of the weights are
    downloaded. Layers that are alike are told once, as in model.layers.0–15.mlp.

    Of each block that no pattern matched it shows the line of the model's code, the pattern that came nearest,
    the first operation that differs from it, or the reason why the pattern declined. Such a block stays plain
    operations, which is right but slower; where one must be fused and is not, the model is refused.

    \b
    autoconvert explain meta-llama/Llama-3.2-1B
    autoconvert explain ./my-model --scaffold blocks.py     writes the beginning of a pattern
    autoconvert explain ./my-model --patterns blocks.py     with patterns of your own

    Exit codes are those of converting: 0 where the model is covered, 3 where it is refused.
    """
    with explained(verbose=verbose):
        with quiet_libraries():
            from autoconvert.diagnose.explain import explain as explain_model
            from autoconvert.diagnose.explained import explained_model
            from autoconvert.diagnose.scaffold import write_scaffold

            explanation = explain_model(
                model,
                context=context,
                patterns=patterns or (),
                revision=revision,
                token=token,
                trust_remote_code=trust_remote_code,
            )
        console = stdout_console()
        again = asked(model, revision=revision, trust_remote_code=trust_remote_code, patterns=patterns)
        for line in explained_model(explanation, again, shlex.quote(str(scaffold or _unused_name()))):
            console.print(line, soft_wrap=True)
        if scaffold is not None:
            with quiet_libraries():
                written = write_scaffold(explanation, scaffold)
            console.print(Text(f"wrote {scaffold}: {written.what_is_left}"), soft_wrap=True)
        if explanation.refusal is not None:
            raise typer.Exit(explanation.refusal.exit_code)


def _unused_name() -> str:
    names = chain(("blocks.py",), (f"blocks_{number}.py" for number in count(2)))
    return next(name for name in names if not Path(name).exists())
