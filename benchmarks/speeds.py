"""The figures of a run of `runtime.py`: what is kept in its results file, and the ratios in it."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.peer import Figures


@dataclass(frozen=True)
class Taken:
    """One run of one peer's file; round 0 packs weights and fills caches, and counts only for its load time.

    `others` is the part of all processors' time that other processes took meanwhile.
    """

    peer: str
    history: int
    round: int
    figures: Figures
    others: float = 0.0


@dataclass(frozen=True)
class PeerFile:
    """What a peer made of the checkpoint; `step_bytes` is what a decoded token reads at each history."""

    peer: str
    version: str
    scheme: str
    file_bytes: int
    step_bytes: dict[int, float]


@dataclass(frozen=True)
class Plan:
    """What every file of a session is asked: prompts of these lengths, and tokens after them, in so many rounds."""

    histories: tuple[int, ...] = (128, 1024, 3072)
    rounds: int = 5
    decode: int = 64
    limit: int = 4096
    threads: int = 2

    def turns(self) -> list[tuple[int, int]]:
        """Round and history of each turn, in which every peer runs once; round 0 has the shortest history alone."""
        rounds = range(1, self.rounds + 1)
        return [(0, self.histories[0]), *((number, history) for number in rounds for history in self.histories)]


@dataclass
class Session:
    """All runs of one shape, taken in turns in one go.

    `bandwidths` are bytes a second, one a round; `absent` says of a peer what to type to have it, `failed` of a peer
    how it ended.
    """

    shape: str
    when: str
    machine: str
    plan: Plan
    files: list[PeerFile] = field(default_factory=list)
    bandwidths: list[float] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every round has every peer at every history; a peer that failed is left out."""
        peers = [file.peer for file in self.files if file.peer not in self.failed]
        runs = {(each.peer, each.history, each.round) for each in self.taken if each.peer in peers}
        return len(runs) == len(peers) * len(self.plan.turns()) > 0

    def peers(self) -> list[str]:
        """Those with figures that count, in the order of the run."""
        measured = {each.peer for each in self.taken if each.round > 0}
        return [file.peer for file in self.files if file.peer in measured]

    def of(self, peer: str, history: int) -> dict[int, Figures]:
        """A peer's figures by round, of the rounds that count."""
        taken = (each for each in self.taken if (each.peer, each.history) == (peer, history))
        return {each.round: each.figures for each in taken if each.round > 0}


@dataclass(frozen=True)
class Measure:
    """One of the figures: what it is called, how it is read off a run, and how it is shown."""

    name: str
    unit: str
    of: Callable[[Figures], float]
    scale: float = 1
    digits: int = 1
    more_is_better: bool = False

    def show(self, value: float) -> str:
        return f"{value / self.scale:.{self.digits}f}"


PREFILL = Measure("prefill", "tokens/s", lambda run: run.prefill, digits=0, more_is_better=True)
DECODE = Measure("decode", "tokens/s", lambda run: run.decode, more_is_better=True)
FIRST_TOKEN = Measure("first token", "s", lambda run: run.first_token_seconds, digits=2)
LOAD = Measure("load", "s", lambda run: run.load_seconds, digits=2)
RESIDENT = Measure("peak memory", "GB", lambda run: run.resident_bytes, scale=1e9, digits=2)
ANONYMOUS = Measure("of it anonymous", "GB", lambda run: run.anonymous_bytes, scale=1e9, digits=2)
MEASURES = (PREFILL, DECODE, FIRST_TOKEN, LOAD, RESIDENT, ANONYMOUS)


def median(session: Session, peer: str, history: int, measure: Measure) -> float | None:
    """The middle of a peer's rounds; None where it has none."""
    return _middle(measure.of(figures) for figures in session.of(peer, history).values())


def ratio(session: Session, peer: str, other: str, history: int, measure: Measure) -> float | None:
    """The middle of `peer`'s over `other`'s, round by round, so that what slows a round slows both; None without."""
    others = session.of(other, history)
    rounds = session.of(peer, history).items()
    return _middle(measure.of(run) / measure.of(others[turn]) for turn, run in rounds if turn in others)


def of_limit(session: Session, peer: str, history: int) -> float | None:
    """The part of the decode speed that memory allows: the round's own bandwidth over what a token reads."""
    steps = [file.step_bytes[history] for file in session.files if file.peer == peer]
    rounds = session.of(peer, history).items()
    return _middle(run.decode * steps[0] / session.bandwidths[turn] for turn, run in rounds)


def _middle(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None


def others_share(session: Session) -> float:
    """The part of the processors that other processes took in the run that they disturbed most."""
    return max((each.others for each in session.taken if each.round > 0), default=0.0)


def first_load(session: Session, peer: str) -> float | None:
    """The load time of a file never loaded before, seconds."""
    firsts = [each.figures.load_seconds for each in session.taken if each.peer == peer and each.round == 0]
    return firsts[0] if firsts else None


def read_sessions(file: Path) -> list[Session]:
    """The sessions of a results file; none where there is no file."""
    if not file.exists():
        return []
    return [_session(each) for each in json.loads(file.read_text())]


def write_sessions(file: Path, sessions: Iterable[Session]) -> None:
    file.write_text(json.dumps([asdict(session) for session in sessions], indent=1) + "\n")


def replaced(sessions: Sequence[Session], by: Session) -> list[Session]:
    """The sessions with `by` in place of an earlier one of its shape, or behind them."""
    shapes = [session.shape for session in sessions]
    if by.shape not in shapes:
        return [*sessions, by]
    return [by if session.shape == by.shape else session for session in sessions]


def _session(saved: dict[str, Any]) -> Session:
    """JSON has only text for keys, and lists for tuples."""
    steps = [{int(history): size for history, size in each["step_bytes"].items()} for each in saved["files"]]
    files = [{**each, "step_bytes": step} for each, step in zip(saved["files"], steps, strict=True)]
    taken = [{**each, "figures": Figures(**each["figures"])} for each in saved["taken"]]
    plan = {**saved["plan"], "histories": tuple(saved["plan"]["histories"])}
    return Session(
        **{
            **saved,
            "plan": Plan(**plan),
            "files": [PeerFile(**each) for each in files],
            "taken": [Taken(**each) for each in taken],
        }
    )
