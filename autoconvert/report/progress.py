"""Progress: a conversion reports its stages to whoever shows them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from autoconvert.system.interruption import raise_if_interrupted


class Display(Protocol):
    """Shows stages; `done` of `total` count in the stage's own unit, bytes for weights."""

    def started(self, stage: str) -> None: ...
    def advanced(self, stage: str, done: int, total: int) -> None: ...
    def finished(self, stage: str, seconds: float, note: str) -> None: ...
    def failed(self, stage: str) -> None: ...


class Silent:
    """A display that shows nothing."""

    def started(self, stage: str) -> None: ...
    def advanced(self, stage: str, done: int, total: int) -> None: ...
    def finished(self, stage: str, seconds: float, note: str) -> None: ...
    def failed(self, stage: str) -> None: ...


@dataclass(frozen=True)
class StageTime:
    """A finished stage."""

    name: str
    seconds: float
    note: str


@dataclass
class Stage:
    """A running stage: `note` is what it found out, shown when it ends."""

    name: str
    display: Display
    note: str = ""

    def advance(self, done: int, total: int) -> None:
        self.display.advanced(self.name, done, total)


@dataclass
class Timeline:
    """Runs stages one after the other, times them, and tells the display. `failed` is the last one that did."""

    display: Display
    stages: list[StageTime] = field(default_factory=list)
    failed: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        stage = Stage(name, self.display)
        self.display.started(name)
        begun = time.perf_counter()
        try:
            yield stage
            raise_if_interrupted()
        except BaseException:
            self.failed = name
            self.display.failed(name)
            raise
        seconds = time.perf_counter() - begun
        self.stages.append(StageTime(name, seconds, stage.note))
        self.display.finished(name, seconds, stage.note)
