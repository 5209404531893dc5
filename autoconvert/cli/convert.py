"""`autoconvert MODEL`: convert a model."""

import re
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from autoconvert.cli.asked import asked
from autoconvert.cli.failures import explained
from autoconvert.cli.output import stdout_console
from autoconvert.cli.quiet import quiet_libraries
from autoconvert.quantization.choices import DEFAULT, SUMMARIES, WORST_DIVERGENCE

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

# As in autoconvert.driver.settings, which takes seconds to import.
Verify = Literal["quick", "full", "off"]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoconvert {version('autoconvert')}")
        raise typer.Exit


@app.command(no_args_is_help=True)
def convert(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder with config.json and safetensors, a .gguf file, an id of the Hugging Face hub, or demo: a "
            "small trained model that comes with autoconvert.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Where the files go. Default: ./NAME of the model, or ./NAME-litert where its own folder is that.",
        ),
    ] = None,
    quantize: Annotated[
        str,
        typer.Option(
            metavar=f"{'|'.join(SUMMARIES)}|FILE.json",
            help=f"How matrices are stored. {'; '.join(f'{name}: {said}' for name, said in SUMMARIES.items())}; "
            "a file: as this recipe of ai-edge-quantizer says, with regular expressions for names of tensors.",
        ),
    ] = DEFAULT,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Most tokens of a conversation. Default: 4096, or what the model was made for if less.",
        ),
    ] = None,
    prefill: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="Fixed chunk lengths in which a prompt is read, and caches as long as the context. By default a "
            "prompt of any length is read at once, and caches follow the conversation. The runtime needs a short one "
            "to fill the last slots of the context: 128,16.",
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME,…",
            help="litertlm: a bundle with tokenizer and chat template, for LiteRT-LM; tflite: the model "
            "alone. Both: litertlm,tflite.",
        ),
    ] = "litertlm",
    verify: Annotated[
        Verify,
        typer.Option(
            help="What is compared with the model. quick: every rewrite, the whole graph, every stored "
            "number, and the files as a device runs them, at chosen positions; full: at every position; off: "
            "nothing."
        ),
    ] = "quick",
    grade_text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What is rounded is graded: how far its next tokens are from the model's, on the beginning of this "
            "text. Default: a page that ships.",
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0.0,
            help="Store the most sensitive matrices finer than --quantize says, until the file's next tokens diverge "
            "from the model's by X nats at most.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="700MB",
            help="Store the least sensitive matrices coarser than --quantize says, until the weights have this size.",
        ),
    ] = None,
    allow_bad_grade: Annotated[
        bool,
        typer.Option(
            "--allow-bad-grade",
            help="Write a file of a bad grade too: one whose next tokens diverge by more than "
            f"{WORST_DIVERGENCE:g} nats, or than --max-kl allows.",
        ),
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="A branch, tag or commit of a hub model.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="For gated and private hub models. Default: what `hf auth login` stored."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pytorch_model.bin where there are no safetensors.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep the compiled graphs, which no weight decides, and reuse them: another fine-tune or another "
            "--quantize is then only linked. AUTOCONVERT_CACHE says where.",
        ),
    ] = True,
    dump: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write what every pass made of the graph: text to compare, PyTorch code that runs, JSON for "
            "Model Explorer, and GraphML. Compiles anew, for in the cache there is nothing to see; a refused model "
            "is dumped up to where it was refused.",
        ),
    ] = None,
    stop_after: Annotated[
        str | None,
        typer.Option(
            "--stop-after",
            metavar="PASS",
            help="End after this pass, with the dump up to there and nothing else: a name of docs/passes.md, where "
            "canonicalize-2 is the second run of one, or prefill, prefill_N or decode. Needs --dump.",
        ),
    ] = None,
    patterns: Annotated[
        list[Path] | None,
        typer.Option(
            "--patterns",
            metavar="FILE.py",
            help="Look for the building blocks in this file too, before the built-in ones. Several are given one by "
            "one. docs/patterns.md says how to write one; autoconvert patterns lists those that are known.",
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v",
            "--verbose",
            help="Also say which patterns matched, which nearly did, which tensors of the checkpoint were "
            "left out and what the signatures are; show the traceback of a failure.",
        ),
    ] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version and end."),
    ] = False,
) -> None:
    """Converts an unmodified PyTorch language model to a file that LiteRT runs on a phone.

    The model is traced, its graph is rewritten to keep a cache, and every step is compared with the model.
    What cannot be proven equal is refused, with the operation and the line of the model's code.

    \b
    Examples:
      autoconvert demo                              the model that comes along
      autoconvert meta-llama/Llama-3.2-1B -o llama  from the hub, to ./llama
      autoconvert ./my-finetune --context 2048      from a folder
      autoconvert demo --quantize int4              an eighth of the size, and what that costs
      autoconvert ./Qwen3-0.6B-Q4_K_M.gguf          from a GGUF file
      autoconvert demo --dump demo-passes           and what each pass did, in ./demo-passes

    \b
    What it would find and need, before it starts (see autoconvert plan --help):
      autoconvert plan meta-llama/Llama-3.2-1B

    \b
    Which blocks were fused, and which were not (see autoconvert explain --help):
      autoconvert explain ./my-model

    \b
    With a block that autoconvert does not know (see autoconvert patterns --help):
      autoconvert ./my-model --patterns my_blocks.py

    \b
    What a bundle says to a prompt (see autoconvert run --help):
      autoconvert run demo/model.litertlm --prompt "In the beginning"

    \b
    Whether a file, whoever made it, is the model (see autoconvert check --help):
      autoconvert check demo/model.litertlm demo

    \b
    A failed check again, from the folder that it left (see autoconvert reproduce --help):
      autoconvert reproduce my-model-failure

    \b
    What each pass did to the graph, as a page (see autoconvert inspect --help):
      autoconvert inspect demo-passes

    \b
    The folder holds model.litertlm (or model.tflite) and report.json afterwards.
    Nothing appears in it unless everything went well; a failed check leaves DIR-failure beside it. Exit codes:
      0    done
      1    a bug in autoconvert
      2    bad usage or bad input, a damaged checkpoint too
      3    refused: something in the model is not covered
      4    a check found other numbers than the model's
      5    disk, memory, access or network
      130  interrupted
      141  nobody reads the output any more
    """
    lengths = None if prefill is None else lengths_in(prefill)
    names = formats_in(formats)
    refuse_unknown_recipe(quantize)
    size = None if target_size is None else size_in(target_size)
    if stop_after is not None and dump is None:
        raise typer.BadParameter(
            "A conversion that ends early leaves nothing but its dump: say where with --dump DIR.",
            param_hint="'--stop-after'",
        )
    again = asked(model, revision=revision, trust_remote_code=trust_remote_code, patterns=patterns)
    # What a conversion and one that ends early take alike.
    options: dict[str, Any] = {
        "context": context,
        "prefill": lengths,
        "verify": verify,
        "revision": revision,
        "token": token,
        "trust_remote_code": trust_remote_code,
        "allow_pickle": allow_pickle,
        "patterns": patterns or (),
        "dump": dump,
    }
    console = stdout_console()
    with explained(verbose=verbose, model=again):
        if stop_after is not None:
            _until(stop_after, model, console, options)
            return
        with quiet_libraries():
            from autoconvert.driver.convert import convert as convert_model
            from autoconvert.report.summary import summary
            from autoconvert.report.table import display_on

            with display_on(console) as display:
                bundle = convert_model(
                    model,
                    output,
                    quantize=quantize,
                    formats=names,
                    grade_text=grade_text,
                    max_kl=max_kl,
                    target_size=size,
                    allow_bad_grade=allow_bad_grade,
                    cache=cache,
                    display=display,
                    **options,
                )
        for line in summary(bundle.report, bundle.files, verbose=verbose):
            console.print(line, soft_wrap=True)


def _until(stop_after: str, model: str, console: Console, options: Mapping[str, Any]) -> None:
    with quiet_libraries():
        from autoconvert.driver.convert_until import convert_until
        from autoconvert.report.table import display_on

        with display_on(console) as display:
            convert_until(model, stop_after, display=display, **options)
    dump = options["dump"]
    console.print(f"stopped after {stop_after}: its dump is in {dump}, and nothing else was written", soft_wrap=True)
    console.print(f"next        autoconvert inspect {shlex.quote(str(dump))}", soft_wrap=True)


def lengths_in(text: str) -> tuple[int, ...]:
    """The numbers of an option like 128,16; raises BadParameter."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers like 128,16.", param_hint="'--prefill'") from None


def refuse_unknown_recipe(text: str) -> None:
    """Raises BadParameter where `text` neither names a recipe nor a recipe's file."""
    if text not in SUMMARIES and Path(text).suffix != ".json":
        raise typer.BadParameter(
            f"{text!r} is none of {', '.join(SUMMARIES)}, and no recipe's .json file.", param_hint="'--quantize'"
        )


def size_in(text: str) -> int:
    """The bytes of an option like 700MB, 1 MB being 10⁶; raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|)", text.strip(), re.IGNORECASE)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size like 700MB.", param_hint="'--target-size'")
    return round(float(found[1]) * {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9}[found[2].lower()])


def formats_in(text: str) -> tuple[str, ...]:
    """The names of an option like litertlm,tflite, each once; raises BadParameter."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    known = ("litertlm", "tflite")
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}.", param_hint="'--format'")
    return names
