"""What converting a model costs, beside the peer and the disk: `python benchmarks/convert.py --peer PYTHON`.

The checkpoint has a real model's shape and random weights. Time is from the start of the command to its
exit, with the checkpoint not in the page cache. Memory is the resident memory of the command and all its
descendants, sampled every 50 ms; pages that processes share count twice. The floor is the disk's: the time to
read the checkpoint and to write as many bytes as the conversion wrote.
"""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import typer
from checkpoints import SHAPES, shape_config, write_checkpoint
from decode import Load, Speed, alternate, median
from decode import table as speed_table
from measure import Cost, forget_cached, measure, read_seconds, write_seconds
from peers.litert_torch_export import export_command
from rich.console import Console
from rich.table import Table

GIGABYTE = 10**9
# What the peer has by default, and what is asked of a bundle with --decode.
PREFILL = 128


@dataclass(frozen=True)
class Stage:
    """One step of a conversion, as its report tells it."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Converter:
    """A command that writes a bundle to `output`, and the interpreter that has the package `name`."""

    name: str
    python: Path
    command: tuple[str, ...]
    output: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """A conversion that was run: what it cost, and the bundle that it left."""

    name: str
    version: str
    cost: Cost
    bundle: Path
    bundle_bytes: int
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Floor:
    """What no conversion can undercut on this disk, in seconds."""

    read_seconds: float
    write_seconds: float


class ConversionFailed(Exception):
    """A converter that did not end well; says which, and how its output ended."""


def make_checkpoint(shape: str, layers: int | None, folder: Path) -> Path:
    """The folder of the checkpoint of `shape` under `folder`, made unless it is there already."""
    name = shape if layers is None else f"{shape}-{layers}-layers"
    made = folder / name / "checkpoint"
    if not made.exists():
        unfinished = made.with_name("unfinished")
        write_checkpoint(shape_config(shape, layers=layers), unfinished)
        unfinished.rename(made)
    return made


def autoconvert(checkpoint: Path, context: int, prefill: int | None, cache: Path) -> Converter:
    """Ours, with default flags but for the context, and for `prefill` if given; `cache` keeps what it compiles."""
    output = checkpoint.with_name("autoconvert")
    program = Path(sysconfig.get_path("scripts")) / "autoconvert"
    command = (
        *(str(program), str(checkpoint), "-o", str(output)),
        *("--quantize", "int8", "--context", str(context)),
        *(() if prefill is None else ("--prefill", str(prefill))),
    )
    return Converter("autoconvert", Path(sys.executable), command, output, {"AUTOCONVERT_CACHE": str(cache)})


def litert_torch(python: Path, checkpoint: Path, context: int, prefill: int, lightweight: bool) -> Converter:
    """The peer, to the same context and the same kind of quantization."""
    output = checkpoint.with_name("litert-torch")
    command = export_command(str(python), checkpoint, output, context, is_lightweight=lightweight, prefill=prefill)
    return Converter("litert-torch", python, tuple(command), output)


def convert(converter: Converter) -> Conversion:
    """Run a converter's command; ConversionFailed if it exits with an error or leaves no bundle."""
    output = converter.output
    output.mkdir(parents=True, exist_ok=True)
    for stale in [*output.glob("*.litertlm"), output / "report.json"]:
        stale.unlink(missing_ok=True)
    log = output / "log.txt"
    try:
        version = package_version(converter)
        cost = measure(converter.command, log, environment=converter.environment)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConversionFailed(f"{converter.name} cannot be run: {error}") from error
    bundles = list(output.glob("*.litertlm"))
    if cost.exit_code != 0 or len(bundles) != 1:
        ending = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise ConversionFailed(f"{converter.name}: exit code {cost.exit_code}, {len(bundles)} bundles\n{ending}")
    size = bundles[0].stat().st_size
    return Conversion(converter.name, version, cost, bundles[0], size, read_stages(output / "report.json"))


def read_stages(report: Path) -> tuple[Stage, ...]:
    """The stages that a report lists under `stages`; none where there is no report or it lists none."""
    if not report.exists():
        return ()
    listed = json.loads(report.read_text()).get("stages", [])
    return tuple(Stage(str(stage["name"]), float(stage["seconds"])) for stage in listed)


def package_version(converter: Converter) -> str:
    """The installed version of a converter; CalledProcessError where it is not installed."""
    program = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    command = [str(converter.python), "-c", program, converter.name.partition(",")[0]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cost_table(conversions: Sequence[Conversion], floor: Floor) -> Table:
    """A row for each conversion, the floor, and the ratios of the other conversions to the first."""
    table = Table("", "wall s", "cpu s", "peak GB", "anonymous GB", "bundle GB")
    for run in conversions:
        cost = run.cost
        table.add_row(
            f"{run.name} {run.version}",
            f"{cost.wall_seconds:.1f}",
            f"{cost.cpu_seconds:.1f}",
            f"{cost.peak_bytes / GIGABYTE:.2f}",
            f"{cost.anonymous_bytes / GIGABYTE:.2f}",
            f"{run.bundle_bytes / GIGABYTE:.3f}",
        )
    table.add_row("disk: read + write", f"{floor.read_seconds:.1f} + {floor.write_seconds:.1f}")
    first, *others = conversions
    for other in others:
        ours, theirs = first.cost, other.cost
        table.add_row(
            f"{other.name} / {first.name}",
            f"{theirs.wall_seconds / ours.wall_seconds:.2f} x",
            f"{theirs.cpu_seconds / ours.cpu_seconds:.2f} x",
            f"{theirs.peak_bytes / ours.peak_bytes:.2f} x",
            f"{theirs.anonymous_bytes / max(1, ours.anonymous_bytes):.2f} x",
            f"{other.bundle_bytes / first.bundle_bytes:.2f} x",
        )
    return table


def stage_table(stages: Sequence[Stage], wall_seconds: float) -> Table:
    """The stages of a conversion, and what the wall time holds besides."""
    table = Table("stage", "s")
    for stage in stages:
        table.add_row(stage.name, f"{stage.seconds:.1f}")
    table.add_row("besides", f"{wall_seconds - sum(stage.seconds for stage in stages):.1f}")
    return table


def record(
    shape: str,
    layers: int | None,
    conversions: Sequence[Conversion],
    floor: Floor,
    speeds: Sequence[Sequence[Speed]],
) -> dict[str, object]:
    """The whole run as JSON can hold it; times in seconds, sizes in bytes, speeds in tokens a second."""
    runs = [{**asdict(run), "bundle": run.bundle.name} for run in conversions]
    for run, taken in zip(runs, speeds, strict=False):
        run["speeds"] = [asdict(speed) for speed in taken]
        run["median_speed"] = asdict(median(taken))
    machine = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }
    settings = {"shape": shape, "layers": layers}
    return {**settings, "machine": machine, "floor": asdict(floor), "conversions": runs}


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "llama-3.2-1b",
    layers: Annotated[int | None, typer.Option(help="This many layers instead of the shape's.", min=1)] = None,
    context: Annotated[int, typer.Option(help="Positions of the cache.", min=1)] = 1280,
    prefill: Annotated[
        int | None,
        typer.Option(
            help=f"Length of one prefill signature. Otherwise ours takes any; the peer's has {PREFILL}.", min=1
        ),
    ] = None,
    peer: Annotated[
        Path | None,
        typer.Option(help="Interpreter of an environment with litert-torch.", exists=True),
    ] = None,
    peer_lightweight: Annotated[
        bool, typer.Option(help="The peer's lightweight conversion, which is faster and smaller in memory.")
    ] = True,
    relink: Annotated[
        bool, typer.Option("--relink", help="Also convert again, with what the first conversion compiled.")
    ] = False,
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Also convert with --verify off: what the checks cost is the difference."),
    ] = False,
    decode: Annotated[bool, typer.Option("--decode", help="Also run the bundles, in turns.")] = False,
    runs: Annotated[int, typer.Option(help="Runs of each bundle with --decode.", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="Threads of the engine with --decode.", min=1)] = 2,
    keep: Annotated[
        Path | None, typer.Option(help="Keep checkpoint and bundles here, and reuse the checkpoint.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Convert a checkpoint of a real shape and print what it cost, in ratio to the peer if one is given."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"{shape} is none of {', '.join(SHAPES)}", param_hint="--shape")
    console = Console()
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoconvert-benchmark-")))
        checkpoint = make_checkpoint(shape, layers, folder)
        ours = autoconvert(checkpoint, context, prefill, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        converters = [ours]
        if relink:
            converters.append(dataclasses.replace(ours, name="autoconvert, relinked"))
        if unchecked:
            command = (*ours.command, "--verify", "off", "--no-cache")
            converters.append(dataclasses.replace(ours, name="autoconvert, unchecked", command=command))
        if peer is not None:
            converters.append(litert_torch(peer, checkpoint, context, prefill or PREFILL, peer_lightweight))
        files = sorted(checkpoint.glob("*.safetensors"))
        conversions = []
        for converter in converters:
            console.print(" ".join(converter.command), style="dim", markup=False, soft_wrap=True)
            forget_cached(files)
            try:
                conversions.append(convert(converter))
            except ConversionFailed as error:
                console.print(str(error), style="red", markup=False)
                raise typer.Exit(1) from error
        floor = Floor(read_seconds(files), write_seconds(conversions[0].bundle_bytes, folder))
        console.print(cost_table(conversions, floor))
        for run in conversions:
            if run.stages:
                console.print(stage_table(run.stages, run.cost.wall_seconds))
        speeds: list[list[Speed]] = []
        if decode:
            load = Load(prefill=prefill or PREFILL, decode=128, context=context, threads=threads)
            speeds = alternate([run.bundle for run in conversions], load, runs)
            console.print(speed_table([run.name for run in conversions], speeds))
        if json_file is not None:
            figures = record(shape, layers, conversions, floor, speeds)
            json_file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
