"""How fast a `.litertlm` file runs: `python benchmarks/decode.py A.litertlm B.litertlm`.

Every run is the engine's own benchmark (what `litert-lm benchmark` runs, on the processor) in a new process.
With several files the runs alternate, so that a machine that slows down slows all of them.
"""

import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from engine_benchmark import engine_benchmark
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Load:
    """What a run asks of the engine: tokens in and out, the context that both share, and threads."""

    prefill: int = 128
    decode: int = 128
    context: int = 1280
    threads: int = 2


@dataclass(frozen=True)
class Speed:
    """Tokens a second, and the seconds it took to load the file."""

    prefill: float
    decode: float
    load_seconds: float


def speed(file: Path, load: Load) -> Speed:
    """One run of `file` in this process; RuntimeError if the engine stops short of the tokens asked for."""
    info = engine_benchmark(str(file), **asdict(load), cache=":nocache")
    return Speed(info.last_prefill_tokens_per_second, info.last_decode_tokens_per_second, info.init_time_in_second)


def alternate(files: Sequence[Path], load: Load, runs: int) -> list[list[Speed]]:
    """`runs` speeds of each file, taken in turns after one discarded turn that warms the page cache."""
    speeds: list[list[Speed]] = [[] for _ in files]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:
        for turn in range(runs + 1):
            for file, taken in zip(files, speeds, strict=True):
                result = process.submit(speed, file, load).result()
                if turn > 0:
                    taken.append(result)
    return speeds


def median(speeds: Sequence[Speed]) -> Speed:
    """The median of each field."""
    return Speed(
        statistics.median(s.prefill for s in speeds),
        statistics.median(s.decode for s in speeds),
        statistics.median(s.load_seconds for s in speeds),
    )


def table(names: Sequence[str], speeds: Sequence[Sequence[Speed]]) -> Table:
    """The medians by name, the slowest and the fastest decode, and each file's decode over the first's."""
    result = Table("file", "prefill tokens/s", "decode tokens/s", "range", "ratio", "load s")
    first = median(speeds[0])
    for name, taken in zip(names, speeds, strict=True):
        middle = median(taken)
        low, high = min(s.decode for s in taken), max(s.decode for s in taken)
        result.add_row(
            name,
            f"{middle.prefill:.1f}",
            f"{middle.decode:.2f}",
            f"{low:.1f}-{high:.1f}",
            f"{middle.decode / first.decode:.2f}",
            f"{middle.load_seconds:.1f}",
        )
    return result


def main(
    files: Annotated[list[Path], typer.Argument(help="Bundles to compare.", exists=True, dir_okay=False)],
    runs: Annotated[int, typer.Option(help="Runs of each file.", min=1)] = 5,
    prefill: Annotated[int, typer.Option(help="Tokens in.", min=1)] = 128,
    decode: Annotated[int, typer.Option(help="Tokens out.", min=1)] = 128,
    context: Annotated[int, typer.Option(help="Positions of the cache.", min=1)] = 1280,
    threads: Annotated[int, typer.Option(help="Threads of the engine.", min=1)] = 2,
) -> None:
    """Compare the speeds of bundles in the runtime; ratios are to the first."""
    speeds = alternate(files, Load(prefill, decode, context, threads), runs)
    Console().print(table([str(file) for file in files], speeds))


if __name__ == "__main__":
    typer.run(main)
