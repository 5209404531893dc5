"""The coverage matrix: every causal language model type of transformers, right or refused by name.

python benchmarks/coverage                                  all types, writes docs/coverage.md
python benchmarks/coverage --types llama,gpt2               some, printed
python benchmarks/coverage --stage graph                    no lowering: the stateful graph checked in PyTorch
python benchmarks/coverage --types llama --results all.json  some, merged into the results of an earlier run
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

# Each process has one thread; two jobs have two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of a tiny program, what torch keeps of every operation's sizes costs more to keep than to find again.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

from outcome import Outcome
from pool import run_all, silence
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from table import never_matched, render, totals

DOCUMENT = Path(__file__).parents[2] / "docs" / "coverage.md"
# Later conversions of a process find operations lowered and kernels loaded; what it keeps grows with them.
_TYPES_A_PROCESS = 24
_COLOURS = {"right": "green", "refused": "yellow", "not buildable": "dim"}


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    with silence():
        from tiny_models import types

    wanted = options.types.split(",") if options.types else types()
    if unknown := set(wanted) - set(types()):
        print(f"not types of transformers {version('transformers')}: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    # Ended from outside, the types under way end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begun = time.perf_counter()
    known = {} if options.results is None else _read(options.results)
    fresh = []
    for outcome in _run(wanted, options):
        fresh.append(outcome)
        known[outcome.model_type] = outcome
        # After each type, so that an interrupted run loses none.
        if options.results is not None:
            rows = [known[name].to_json() for name in sorted(known)]
            options.results.write_text(json.dumps(rows, indent=1) + "\n")
    return _report(fresh, list(known.values()), options, time.perf_counter() - begun)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/coverage", description=__doc__.split("\n")[0])
    parser.add_argument("--types", help="only these, separated by commas; nothing is written to docs")
    parser.add_argument("--stage", choices=("graph", "file"), default="file", help="how far to go (default: file)")
    parser.add_argument("--jobs", type=int, default=2, help="types at a time (default: 2)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a type (default: 600)")
    parser.add_argument("--results", type=Path, help="JSON with the outcomes of earlier runs, merged with this one's")
    return parser.parse_args(arguments)


def _run(wanted: list[str], options: argparse.Namespace) -> Iterator[Outcome]:
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("types", total=len(wanted))
        ends = run_all(
            wanted,
            "examine",
            "examine",
            (options.stage,),
            jobs=options.jobs,
            timeout=options.timeout,
            each=_TYPES_A_PROCESS,
        )
        for ended in ends:
            outcome = ended.value or Outcome(ended.name, "failed", ended.problem, seconds=ended.seconds)
            progress.advance(task)
            console.print(_line(outcome), soft_wrap=True)
            yield outcome


def _line(outcome: Outcome) -> str:
    colour = _COLOURS.get(outcome.status, "bold red")
    distance = f" {outcome.distance:.1e} σ" if outcome.distance is not None else ""
    cost = f"{outcome.seconds:5.1f} s {outcome.peak_bytes / 1e9:4.1f} GB"
    reason = outcome.reason.replace("[", r"\[")
    return f"{cost}  {outcome.model_type:24} [{colour}]{outcome.status}[/]{distance} {reason}"


def _report(fresh: list[Outcome], known: list[Outcome], options: argparse.Namespace, seconds: float) -> int:
    from tiny_models import types

    from autoconvert.patterns import PATTERNS

    names = [pattern.name for pattern in PATTERNS]
    print(f"\n{totals(fresh)}, in {seconds / 60:.1f} minutes")
    complete = {outcome.model_type for outcome in known} >= set(types())
    if complete:
        print(f"patterns that matched nowhere: {', '.join(never_matched(known, names)) or 'none'}")
    if complete:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(render(known, names, _versions()))
        print(f"wrote {DOCUMENT}")
    bad = sorted(outcome.model_type for outcome in fresh if outcome.status in ("wrong", "failed"))
    if bad:
        print(f"wrong or failed: {', '.join(bad)}")
    return 1 if bad else 0


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "litert-torch"))


def _read(path: Path) -> dict[str, Outcome]:
    rows: Iterable[dict[str, object]] = json.loads(path.read_text()) if path.exists() else []
    return {outcome.model_type: outcome for outcome in map(Outcome.from_json, rows)}


if __name__ == "__main__":
    sys.exit(main())
