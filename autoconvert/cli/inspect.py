"""`autoconvert inspect`: a dump, or a file that a device runs, as a page."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from autoconvert.cli.failures import explained
from autoconvert.dump.manifest import PAGE
from autoconvert.report.readable import readable_size

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def inspect(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE", help="A folder that autoconvert MODEL --dump DIR wrote, or a .tflite or .litertlm."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="PAGE", help="Where the page goes (default: DIR/index.html, FILE.html)."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The report.json of the same conversion: adds how long the stages took."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only write the page, do not open it.")] = False,
    model_explorer: Annotated[
        bool,
        typer.Option("--model-explorer", help="Open the graphs in ai-edge-model-explorer instead of the browser."),
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of a failure.")] = False,
) -> None:
    """Writes a page that shows what each pass did to the graph, or what a file runs, and opens it.

    The page is one file without a network: it can be mailed. Of a dump: a pass a step, down to the operations of
    the file, before and after side by side, every node with the line of the model's code that it comes from,
    every block with its pattern, the checks, and what the weights take. Of a file, whoever wrote it: the operations
    of each signature by module, with their tensors, types and encodings.

    \b
    Examples:
      autoconvert demo -o demo --dump demo-passes        converts, and writes what each pass made
      autoconvert inspect demo-passes                    looks at it
      autoconvert inspect demo-passes --report demo/report.json --no-open
      autoconvert inspect demo/model.litertlm            what the file runs

    \b
    Exit codes:
      0    done
      1    a bug in autoconvert
      2    DIR holds no dump, one of another version, or a damaged one; FILE is no TFLite file or bundle, or damaged;
           or Model Explorer is not installed
      5    the page cannot be written
    """
    with explained(verbose=verbose):
        from autoconvert.errors import InputError
        from autoconvert.inspect.explorer import open_model_explorer
        from autoconvert.inspect.page import page
        from autoconvert.inspect.times import read_times

        # What reads files of a device takes a quarter of a second to import.
        if is_dump := source.is_dir():
            from autoconvert.inspect.dump import read_dump

            dump = read_dump(source)
        else:
            from autoconvert.inspect.file import read_file

            dump = read_file(source)
        stages = read_times(report) if report else ()
        if model_explorer:
            if not is_dump:
                raise InputError("Model Explorer opens files itself.", hint=f"model-explorer {source}")
            open_model_explorer(source, dump)
            return
        path = output or (source / PAGE if is_dump else source.with_name(f"{source.name}.html"))
        path.write_text(page(dump, stages), encoding="utf-8")
        typer.echo(f"{path}  {readable_size(path.stat().st_size)}")
        if not no_open:
            webbrowser.open(path.absolute().as_uri())
