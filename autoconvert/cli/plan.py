"""`autoconvert plan MODEL`: what a conversion would find and need."""

from pathlib import Path
from typing import Annotated

import typer

from autoconvert.cli.asked import asked
from autoconvert.cli.convert import Verify, formats_in, lengths_in, refuse_unknown_recipe
from autoconvert.cli.failures import explained
from autoconvert.cli.output import stdout_console
from autoconvert.cli.quiet import quiet_libraries
from autoconvert.quantization.choices import DEFAULT

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a .gguf file, an id of the hub, or demo.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="As for converting: its disk is asked for room."),
    ] = None,
    quantize: Annotated[str, typer.Option(metavar="NAME|FILE.json", help="As for converting.")] = DEFAULT,
    context: Annotated[int | None, typer.Option(metavar="N", help="As for converting.")] = None,
    prefill: Annotated[str | None, typer.Option(metavar="N,N,…", help="As for converting.")] = None,
    formats: Annotated[str, typer.Option("--format", metavar="NAME,…", help="As for converting.")] = "litertlm",
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="A branch, tag or commit of a hub model.")
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="TOKEN", help="For gated and private hub models.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="As for converting.")] = False,
    verify: Annotated[Verify, typer.Option(help="As for converting.")] = "quick",
    patterns: Annotated[
        list[Path] | None, typer.Option("--patterns", metavar="FILE.py", help="As for converting.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of a failure.")] = False,
) -> None:
    """Says what converting a model would find and need, without reading a weight.

    Of a hub model only the configuration, the tokenizer and the headers of the weights are downloaded. The
    graph is traced and rewritten, so that what would be refused is refused here.

    \b
    autoconvert plan meta-llama/Llama-3.2-1B
    autoconvert plan ./my-finetune --quantize fp16

    Exit codes are those of converting: 3 where it would be refused, 5 where disk or memory do not suffice.
    """
    lengths = None if prefill is None else lengths_in(prefill)
    names = formats_in(formats)
    refuse_unknown_recipe(quantize)
    again = asked(model, revision=revision, trust_remote_code=trust_remote_code, patterns=patterns)
    with explained(verbose=verbose, model=again):
        with quiet_libraries():
            from autoconvert.driver.estimate import plan_of
            from autoconvert.driver.library import in_order, libraries
            from autoconvert.driver.planned import planned
            from autoconvert.driver.ready import refuse_what_cannot_be_written, target_folder
            from autoconvert.driver.settings import choose
            from autoconvert.source.source import plan_source

            outside = libraries(patterns or ())
            source = plan_source(
                model,
                revision=revision,
                token=token,
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
            )
            settings = choose(
                source.config, context=context, prefill=lengths, quantize=quantize, formats=names, verify=verify
            )
            found = plan_of(source, settings, in_order(outside))
        console = stdout_console()
        for line in planned(found):
            console.print(line, soft_wrap=True)
        refuse_what_cannot_be_written(found.needs, settings, target_folder(source, output))
        if found.wall is not None:
            raise found.wall
