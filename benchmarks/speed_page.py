"""docs/speed.md and docs/speed.svg, from the sessions of a results file."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from speeds import DECODE, MEASURES, PREFILL, Measure, Session, first_load, median, of_limit, others_share, ratio

OURS = "autoconvert"

_INTRODUCTION = """# How fast a file talks

Written by `python benchmarks/runtime.py --write-docs` from its results; do not edit. benchmarks/README.md says how to
measure again, and where the peers' files come from.

Each checkpoint has a real model's shape and random weights, and each peer makes its file of it. The files run in
turns on the processor, each run in a fresh process: a prompt of so many tokens in, then {decode} tokens out, in a
conversation of at most {limit}. Figures are medians over the rounds; ratios are medians of each round's own ratio, so
that what slows the machine slows both.

- *of the limit*: decode speed over what memory allows, if every step reads all weights that it multiplies and the cache
  that is used, each once. A layer with a window counts no more than its window. llama.cpp's cache is float16, the
  others' float32.
- *first token*: from the prompt to the first token out. *load*: from the start of loading to a file that is ready, with
  what the runtime keeps from an earlier run; *first load* is without. The start of the process is not in it.
- *peak memory*: of the process and all it started, mapped files while they are resident; *anonymous* is without them.

![prefill and decode by tokens in](speed.svg)
"""


def write_page(sessions: Sequence[Session], docs: Path) -> tuple[Path, Path]:
    """Writes both files to `docs` from the sessions that are complete; ValueError where none is."""
    complete = [session for session in sessions if session.complete]
    if not complete:
        raise ValueError("no shape in the results was measured to its end")
    page, picture = docs / "speed.md", docs / "speed.svg"
    page.write_text(render(complete))
    draw(complete, picture)
    return page, picture


def render(sessions: Sequence[Session]) -> str:
    """The text of the page, a section a shape."""
    plan = sessions[0].plan
    introduction = _INTRODUCTION.format(decode=plan.decode, limit=plan.limit)
    return "\n".join([introduction, *(line for session in sessions for line in _section(session))])


def draw(sessions: Sequence[Session], path: Path) -> None:
    """A column a shape: prefill above, decode below with what memory allows ours; both from zero, by tokens in."""
    mpl.rcParams["svg.hashsalt"] = "autoconvert"
    size = (max(4.5, 3.2 * len(sessions)), 5.6)
    figure, panels = pyplot.subplots(2, len(sessions), figsize=size, layout="constrained", squeeze=False)
    for session, above, below in zip(sessions, *panels, strict=True):
        for axes, measure in ((above, PREFILL), (below, DECODE)):
            _lines(axes, session, measure)
        limits = [_limit(session, history) for history in session.plan.histories]
        if None not in limits:
            below.plot(session.plan.histories, limits, "k:", label="memory's limit")
        above.set_title(session.shape)
        for axes in (above, below):
            axes.set(ylim=(0, None), xlim=(0, None))
            axes.grid(alpha=0.3)
        below.set_xlabel("tokens in")
    panels[0][0].set_ylabel("prefill, tokens/s")
    panels[1][0].set_ylabel("decode, tokens/s")
    figure.legend(*panels[1][0].get_legend_handles_labels(), loc="outside lower center", ncols=3 + len(sessions))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _lines(axes: Axes, session: Session, measure: Measure) -> None:
    for index, file in enumerate(session.files):
        points = [(history, median(session, file.peer, history, measure)) for history in session.plan.histories]
        known = [(history, value) for history, value in points if value is not None]
        axes.plot(*zip(*known, strict=True), "o-", color=f"C{index}", label=file.peer) if known else None


def _limit(session: Session, history: int) -> float | None:
    """Tokens a second that memory allows our file; None where ours was not run."""
    steps = [file.step_bytes[history] for file in session.files if file.peer == OURS]
    return _bandwidth(session) / steps[0] if steps else None


def _bandwidth(session: Session) -> float:
    return statistics.median(session.bandwidths[1:])


def _section(session: Session) -> Iterator[str]:
    plan = session.plan
    yield f"## {session.shape}"
    yield ""
    rounds = f"{plan.rounds} round{'s' if plan.rounds > 1 else ''}"
    yield f"{session.when}, {session.machine}, {plan.threads} threads, {rounds}; memory is read at"
    others = others_share(session)
    yield f"{_bandwidth(session) / 1e9:.1f} GB/s. Other processes took at most {others:.0%} of the processors in a run."
    yield ""
    yield from _row("in", "file", *(f"{each.name}, {each.unit}" for each in MEASURES), "of the limit")
    yield from _row(*["---"] * (3 + len(MEASURES)))
    for history in plan.histories:
        for peer in session.peers():
            cells = (_shown(median(session, peer, history, each), each) for each in MEASURES)
            part = of_limit(session, peer, history)
            yield from _row(str(history), peer, *cells, "" if part is None else f"{part:.0%}")
    yield ""
    yield from _ratios(session)
    yield from _files(session)


def _ratios(session: Session) -> Iterator[str]:
    others = [peer for peer in session.peers() if peer != OURS]
    if OURS not in session.peers() or not others:
        return
    yield from _row("in", "ours over", *(each.name for each in MEASURES))
    yield from _row(*["---"] * (2 + len(MEASURES)))
    for history in session.plan.histories:
        for peer in others:
            values = (ratio(session, OURS, peer, history, each) for each in MEASURES)
            yield from _row(str(history), peer, *("" if value is None else f"{value:.2f}" for value in values))
    yield ""


def _files(session: Session) -> Iterator[str]:
    yield from _row("file", "version", "weights", "size, GB", "first load, s")
    yield from _row(*["---"] * 5)
    for file in session.files:
        first = first_load(session, file.peer)
        shown = "" if first is None else f"{first:.2f}"
        yield from _row(file.peer, file.version, file.scheme, f"{file.file_bytes / 1e9:.3f}", shown)
    yield ""
    if session.failed:
        yield f"Failed: {', '.join(session.failed)}."
        yield ""
    if session.absent:
        yield f"Not installed, so not measured: {', '.join(session.absent)}."
        yield ""


def _shown(value: float | None, measure: Measure) -> str:
    return "" if value is None else measure.show(value)


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"
