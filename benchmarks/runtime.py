"""How fast a converted file talks, beside its peers: `python benchmarks/runtime.py --shape smollm2-135m`.

Each peer makes a file of the same checkpoint, of a real model's shape and with random weights. Then the files run in
turns, each run in a fresh process: a prompt of each length in, 64 tokens out, in conversations of at most 4096. Round
0, of the shortest prompt, does not count: it packs weights, and its load time is that of a file never loaded before.
How fast this machine reads its memory is measured at the start of each round.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from bandwidth import step_sizes
from checkpoints import SHAPES
from convert import make_checkpoint
from peers.every import PEERS
from peers.peer import Peer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from speed_page import write_page
from speed_table import speed_table
from speeds import Plan, Session, others_share, read_sessions, replaced, write_sessions
from turns import Places, join, machine, take_turns

DOCS = Path(__file__).parents[1] / "docs"
NAMES = tuple(peer.name for peer in PEERS)
# Kernel threads and the terminal take a few hundredths.
QUIET = 0.05
DEFAULT_SHAPES = ("smollm2-135m", "gemma-3-270m", "qwen3-0.6b", "llama-3.2-1b")


def measure_shape(
    shape: str,
    peers: Sequence[Peer],
    plan: Plan,
    places: Places,
    folder: Path,
    save: Callable[[Session], None],
    console: Console,
) -> Session:
    """A whole session of `shape`; `save` is called with it after each run."""
    session = Session(shape, time.strftime("%Y-%m-%d %H:%M"), machine(), plan)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(peers))

        def show(description: str, done: int, total: int) -> None:
            progress.update(task, description=description, completed=done, total=total)
            if not console.is_terminal:
                console.print(description)

        show(f"{shape}: makes the checkpoint", 0, len(peers))
        checkpoint = make_checkpoint(shape, None, folder)
        sizes = step_sizes(checkpoint)
        prepared: list[tuple[Peer, Path]] = []
        for number, peer in enumerate(peers):
            show(f"{shape}: {peer.name} makes its file", number, len(peers))
            prepared += join(peer, session, checkpoint, folder / shape, places, sizes)
        total = len(plan.turns()) * len(prepared)
        for number, coming in enumerate(take_turns(session, prepared, places, lambda: save(session))):
            show(coming, number, total)
    return session


def saving(results: Path | None, earlier: Sequence[Session]) -> Callable[[Session], None]:
    """What writes a session, with the earlier ones of other shapes, to the results file if there is one."""

    def save(session: Session) -> None:
        if results is not None:
            write_sessions(results, replaced(earlier, session))

    return save


def chosen(given: Sequence[str] | None, known: Sequence[str], default: Sequence[str], option: str) -> list[str]:
    """`given` without repetition, or the default; typer.BadParameter for a name that is not known."""
    for each in given or ():
        if each not in known:
            raise typer.BadParameter(f"{each} is none of {', '.join(known)}", param_hint=option)
    return list(dict.fromkeys(given or default))


def places_of(given: Sequence[str]) -> dict[str, Path]:
    """PEER=PATH by peer; typer.BadParameter for what is not of that form, or of no peer."""
    found = {}
    for each in given:
        name, _, path = each.partition("=")
        if not path or name not in NAMES:
            raise typer.BadParameter(f"{each} is not PEER=PATH with one of {', '.join(NAMES)}", param_hint="--at")
        found[name] = Path(path)
    return found


def main(
    shape: Annotated[
        list[str] | None,
        typer.Option(help=f"Repeatable: {', '.join(SHAPES)}. Default: {', '.join(DEFAULT_SHAPES)}."),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable: {', '.join(NAMES)}. Default: all that are installed.")
    ] = None,
    history: Annotated[
        list[int] | None, typer.Option(help="Repeatable: tokens in before decoding. Default: 128, 1024, 3072.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=1)] = 5,
    against: Annotated[str, typer.Option(help="The peer that ratios are over.")] = "litert-torch",
    limit: Annotated[int, typer.Option(help="Most tokens of a conversation.", min=1)] = 4096,
    decode: Annotated[int, typer.Option(help="Tokens out.", min=1)] = 64,
    threads: Annotated[int, typer.Option(help="Threads of every runtime. Default: all cores.", min=1)] = (
        os.cpu_count() or 1
    ),
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER=PATH",
            help="Repeatable: where a peer is, an interpreter (litert-torch, executorch) or the folder in which npm "
            "installed node-llama-cpp (llama.cpp).",
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep checkpoints and files here; the peers' are taken again, ours is made anew."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="JSON file to which each run is added; a shape measured again replaces its own."),
    ] = None,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Write docs/speed.md and docs/speed.svg from all of --results.")
    ] = False,
    only_docs: Annotated[bool, typer.Option("--only-docs", help="The same, and measure nothing.")] = False,
) -> None:
    """Measure how fast our file and its peers' read a prompt and decode, in turns, as ratios.

    Let nothing else run meanwhile: decoding is bound by the memory that all processes share.

    \b
    A quick look:     python benchmarks/runtime.py --shape smollm2-135m --rounds 1 --keep runs
    Only ours:        python benchmarks/runtime.py --peer autoconvert
    The whole page:   python benchmarks/runtime.py --keep runs --results speed.json --write-docs
    The page again:   python benchmarks/runtime.py --results speed.json --only-docs

    What to install for each peer is in benchmarks/README.md; one that is not there is named and left out.
    """
    # What is not a terminal has room for the table.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    shapes = chosen(shape, tuple(SHAPES), DEFAULT_SHAPES, "--shape")
    names = chosen(peer, NAMES, NAMES, "--peer")
    chosen([against], NAMES, NAMES, "--against")
    places = places_of(at or [])
    plan = Plan(tuple(sorted(set(history or Plan.histories))), rounds, decode, limit, threads)
    if min(plan.histories) < 2 or max(plan.histories) + decode > limit:
        raise typer.BadParameter(f"between 2 and {limit - decode}, so that {decode} more fit", param_hint="--history")
    if (write_docs or only_docs) and results is None:
        raise typer.BadParameter("is needed, since the page is written from it", param_hint="--results")
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
    sessions = [] if results is None else read_sessions(results)
    failed = False
    peers = [one for one in PEERS if one.name in names]
    with tempfile.TemporaryDirectory(prefix="autoconvert-benchmark-") as temporary:
        for each in [] if only_docs else shapes:
            save = saving(results, sessions)
            session = measure_shape(each, peers, plan, places, keep or Path(temporary), save, console)
            sessions = replaced(sessions, session)
            console.print(speed_table(session, against))
            if (taken := others_share(session)) > QUIET:
                console.print(
                    f"other processes took up to {taken:.0%} of the processors: measure again on a quiet machine",
                    style="yellow",
                )
            for name, hint in session.absent.items():
                console.print(f"{name} is not installed: {hint}", markup=False)
            for name, why in session.failed.items():
                console.print(f"{name} failed: {why}", style="red", markup=False)
            failed |= bool(session.failed)
    if write_docs or only_docs:
        try:
            console.print(f"wrote {' and '.join(map(str, write_page(sessions, DOCS)))}")
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--results") from error
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    # Ended from outside, what it started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    typer.run(main)
