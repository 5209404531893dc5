"""Whatever Python keeps from call to call: a trace holds for every call, or the model is refused by what changes."""

import collections
import enum
import functools
import itertools
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from autoconvert.errors import Refused
from autoconvert.tracing.one_step import trace_one_step
from autoconvert.tracing.past import past_of
from autoconvert.tracing.trace import trace
from tests.models import CONTEXT, VOCABULARY, WIDTH
from tests.tracing import counting

logger = logging.getLogger(__name__)

Turn = Callable[[Any], Any]


class Phase(enum.Enum):
    EARLY = 0
    LATE = 1


class Slotted:
    """Has no dictionary."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


@dataclass(slots=True)
class SlottedData:
    count: int = 0
    names: set[int] = field(default_factory=set)


class Shared:
    """Counts for all of its kind."""

    calls = 0


def everything() -> SimpleNamespace:
    """One of each that may hold a count."""
    return SimpleNamespace(
        text="",
        names=set(),
        table={},
        order=collections.OrderedDict(a=0.5, b=0.9),
        phase=Phase.EARLY,
        slotted=Slotted(),
        data=SlottedData(),
        queue=collections.deque([0.5, 0.9, 0.7]),
        counter=itertools.count(),
        cycle=itertools.cycle([0.5, 0.9]),
        iterator=iter([0.5] * 30 + [0.9] * 30),
        chance=random.Random(0),
        rng=numpy.random.default_rng(0),
        array=numpy.zeros(1),
        bytes=bytearray(1),
        flag=False,
        pair=(0, 0.5),
        tally=collections.Counter(),
        current=None,
        modes=[SimpleNamespace(factor=0.5), SimpleNamespace(factor=0.9)],
        shared=Shared(),
        partial=functools.partial(max, 0),
        numpy=numpy.int64(0),
        number=0,
    )


def told(change: Callable[[Any], Any], read: Callable[[Any], Any] = lambda _: 0.5) -> Turn:
    """A turn that changes what is kept, then reads it."""

    def turn(kept: Any) -> Any:
        change(kept)
        return read(kept)

    return turn


def assign(name: str, value: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda kept: setattr(kept, name, value(kept))


def generating(kept: Any) -> Any:
    if not hasattr(kept, "generator"):
        kept.generator = (0.5 if n < 30 else 0.9 for n in itertools.count())
    return next(kept.generator)


def closing() -> Turn:
    calls = 0

    def turn(_: Any) -> float:
        nonlocal calls
        calls += 1
        return 0.9 if calls > 30 else 0.5

    return turn


def by_default(_: Any, calls: list[int] = []) -> float:  # noqa: B006
    calls.append(1)
    return 0.9 if len(calls) > 30 else 0.5


def of_itself(_: Any) -> float:
    of_itself.calls += 1  # type: ignore[attr-defined]
    return 0.9 if of_itself.calls > 30 else 0.5  # type: ignore[attr-defined]


of_itself.calls = 0  # type: ignore[attr-defined]


def of_its_class(kept: Any) -> float:
    type(kept.shared).calls += 1
    return 0.9 if kept.shared.calls > 30 else 0.5


def by_chance(_: Any) -> float:
    return 0.9 if random.random() > 0.9 else 0.5


def choose_another(kept: Any) -> None:
    kept.modes.reverse()
    kept.current = kept.modes[0]


def count_and_copy(kept: Any) -> None:
    kept.late = kept.number
    kept.number += 1


def change_much(kept: Any) -> None:
    kept.names.add(1)
    kept.table.update(a=1)
    kept.queue.rotate()
    kept.text = "changed"


# What decides a factor, and where it is said to lie. What is a number is named where it is read.
READ: dict[str, tuple[Turn, str]] = {
    "text": (told(assign("text", lambda k: k.text + "."), lambda k: 0.9 if len(k.text) > 30 else 0.5), "text"),
    "a set": (told(lambda k: k.names.add(len(k.names)), lambda k: 0.9 if len(k.names) > 30 else 0.5), "names"),
    "keys": (told(lambda k: k.table.update({len(k.table): 0}), lambda k: 0.9 if len(k.table) > 30 else 0.5), "table"),
    "the order of keys": (
        told(lambda k: k.order.move_to_end(next(iter(k.order))), lambda k: next(iter(k.order.values()))),
        "order",
    ),
    "an enumeration": (
        told(assign("phase", lambda k: Phase(1 - k.phase.value)), lambda k: 0.9 if k.phase is Phase.LATE else 0.5),
        "phase",
    ),
    "slots": (
        told(lambda k: setattr(k.slotted, "count", k.slotted.count + 1), lambda k: 0.5 + (k.slotted.count > 30)),
        r"slotted\.count",
    ),
    "a slotted dataclass": (
        told(lambda k: setattr(k.data, "count", k.data.count + 1), lambda k: 0.5 + (k.data.count > 30)),
        r"data\.count",
    ),
    "a set in a slot": (
        told(lambda k: k.data.names.add(len(k.data.names)), lambda k: 0.5 + (len(k.data.names) > 30)),
        r"data\.names",
    ),
    "a queue": (told(lambda k: k.queue.rotate(), lambda k: k.queue[0]), r"queue"),
    "a count that iterates": (lambda k: 0.9 if next(k.counter) > 30 else 0.5, "counter"),
    "a cycle": (lambda k: next(k.cycle), "cycle"),
    "an iterator": (lambda k: next(k.iterator), "iterator"),
    "a generator": (generating, "generator|path for a single token"),
    "random numbers": (lambda k: 0.5 + (k.chance.random() > 0.9), "chance"),
    "numpy's random numbers": (lambda k: 0.5 + (k.rng.random() > 0.9), "rng"),
    "Python's random numbers": (by_chance, "random numbers"),
    "an array": (told(lambda k: k.array.__iadd__(1), lambda k: 0.5 + float(k.array[0] > 30)), "array"),
    "bytes": (told(lambda k: k.bytes.append(0), lambda k: 0.5 + (len(k.bytes) > 30)), "bytes"),
    "a truth": (told(assign("flag", lambda k: not k.flag), lambda k: 0.9 if k.flag is True else 0.5), "flag"),
    "a tuple": (told(assign("pair", lambda k: (k.pair[0] + 1, 0.5)), lambda k: 0.5 + (k.pair[0] > 30)), "pair"),
    "a tally": (told(lambda k: k.tally.update(a=1), lambda k: 0.5 + (k.tally["a"] > 30)), "tally"),
    "which object": (
        told(choose_another, lambda k: k.current.factor),
        "modes|current",
    ),
    "of a class": (of_its_class, r"Shared\.calls"),
    "arguments of a call to come": (
        told(assign("partial", lambda k: functools.partial(max, k.partial.args[0] + 1)), lambda k: k.partial(0) > 30),
        "partial",
    ),
    "numpy's number": (told(assign("numpy", lambda k: k.numpy + 1), lambda k: 0.5 + (k.numpy > 30)), "numpy"),
    "a closure": (closing(), "calls of"),
    "a default": (by_default, "__defaults__"),
    "of a function": (of_itself, r"turn\.calls"),
    "of another file": (lambda _: counting.of_the_file(), "CALLS of tests.tracing.counting"),
    "in another file": (lambda _: counting.in_the_file(), "KEPT of tests.tracing.counting"),
    "made into text": (
        told(assign("number", lambda k: k.number + 1), lambda k: 0.9 if f"{k.number}" == "30" else 0.5),
        "number",
    ),
    "asked for its kind": (
        told(assign("number", lambda k: k.number + 1), lambda k: 0.5 if isinstance(k.number, int) else 0.9),
        "number",
    ),
    "written and read": (
        told(assign("number", lambda k: k.number + 1), lambda k: 0.9 if repr(k.number) == "30" else 0.5),
        "number",
    ),
    "a message that is filled": (
        told(assign("number", lambda k: k.number + 1), lambda k: 0.9 if "%d" % k.number == "30" else 0.5),  # noqa: UP031
        "number",
    ),
}


def once(name: str, value: Any) -> Turn:
    """Set by the first call, as what is made when it is first needed."""
    return told(lambda k: setattr(k, name, value) if getattr(k, name, None) is None else None)


@functools.cache
def warn_once(text: str) -> None:
    logger.debug(text)


def logged(kept: Any) -> float:
    kept.number += 1
    logger.error("call %d of %s, %5.1f", kept.number, kept.number, kept.number)
    return 0.5


def printed(kept: Any) -> float:
    kept.number += 1
    print(kept.number)
    return 0.5


# What changes, and decides nothing.
HARMLESS: dict[str, Turn] = {
    "nothing": lambda _: 0.5,
    "made when first needed": once("current", "made"),
    "a table made when first needed": once("late", {"a": [1, 2]}),
    "a flag of the first call": told(assign("flag", lambda _: True), lambda _: 0.5),
    "warned once": told(lambda _: warn_once("only once")),
    "names of what was warned of": told(lambda k: k.names.add("warned")),
    "made anew": told(assign("late", lambda _: SimpleNamespace(a=[1, {"b"}], b=Slotted()))),
    "a number in slots": told(lambda k: setattr(k.data, "count", k.data.count + 1)),
    "a number in a queue": told(lambda k: k.queue.__setitem__(0, k.queue[0] + 1)),
    "a tally": told(lambda k: k.tally.__setitem__("a", k.tally.get("a", 0) + 1)),
    "told to a logger": logged,
    "printed": printed,
    "counted in another file": lambda _: counting.only_counts(),
    "a copy of a count": told(count_and_copy),
}


class Remembering(nn.Module):
    """A state [batch, width] that decays by what `turn(kept)` says, once a call; `kept` is its memory's."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.turn = turn
        self.eval()

    def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
        if memory is None:
            memory = everything()
            memory.state = torch.zeros(len(tokens), WIDTH)
        factor, rows = self.turn(memory), []
        for x in self.embed(tokens).unbind(1):
            memory.state = memory.state * factor + x
            rows.append(torch.tanh(memory.state))
        return {"logits": self.head(torch.stack(rows, 1)), "memory": memory}


class OfWholeTexts(nn.Module):
    """Logits by what `turn(kept)` says; `kept` is the module's own."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.turn, self.kept = turn, everything()
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(tokens) * self.turn(self.kept))
        return logits


def traced_step(turn: Turn) -> None:
    model = Remembering(turn)
    trace_one_step(model, past_of(model, CONTEXT), CONTEXT)


def traced_text(turn: Turn) -> None:
    trace(OfWholeTexts(turn), CONTEXT)


@pytest.fixture(autouse=True)
def from_the_beginning() -> Iterator[None]:
    """What is counted beside a model begins anew, and is as it was after every trace."""
    random.seed(0)
    yield
    assert (Shared.calls, counting.CALLS, counting.KEPT, of_itself.calls) == (0, 0, {"calls": 0}, 0)  # type: ignore[attr-defined]
    assert by_default.__defaults__ == ([],)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("traced", [traced_step, traced_text])
def test_what_changes_from_call_to_call_and_decides_is_refused_by_its_place(
    name: str, traced: Callable[[Turn], None]
) -> None:
    turn, place = READ[name]
    with pytest.raises(Refused, match=place):
        traced(turn)


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("traced", [traced_step, traced_text])
def test_what_changes_and_decides_nothing_is_no_matter(name: str, traced: Callable[[Turn], None]) -> None:
    traced(HARMLESS[name])


def test_a_hook_that_counts_is_seen() -> None:
    calls = []

    def scaled(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return output * 2 if len(calls) > 30 else output

    model = OfWholeTexts(lambda _: 0.5)
    model.embed.register_forward_hook(scaled)
    with pytest.raises(Refused, match=r"the length of calls of decoder\.embed"):
        trace(model, CONTEXT)
    assert calls == []


def tabled(kept: Any) -> Tensor:
    return kept.table.setdefault("factors", torch.linspace(0, 1, WIDTH))


def made_late(kept: Any) -> Tensor:
    kept.late = getattr(kept, "late", None)
    if kept.late is None:
        kept.late = torch.linspace(0, 1, WIDTH)
    return kept.late


@pytest.mark.parametrize("turn", [tabled, made_late])
def test_a_table_that_the_first_call_makes_is_no_matter(turn: Turn) -> None:
    traced_text(turn)


def test_a_tensor_of_the_last_call_in_a_dictionary_is_refused() -> None:
    last: dict[str, Tensor] = {}

    class Shifting(Remembering):
        def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
            output = super().forward(tokens, memory)
            x = self.embed(tokens)
            output["logits"] = output["logits"] + self.head(last.get("x", torch.zeros_like(x)))
            last["x"] = x[:, -1:]
            return output

    model = Shifting(lambda _: 0.5)
    with pytest.raises(Refused, match=r"changes last of .*forward\['x'\] from call to call"):
        trace_one_step(model, past_of(model, CONTEXT), CONTEXT)
    assert last == {}


def first_differs(kept: Any) -> float:
    factor = 0.5 if kept.text == "" else 0.9
    kept.text = "begun"
    return factor


def warming_up(kept: Any) -> float:
    factor = 0.9 if kept.text == "warm" else 0.5
    kept.text = {"": "warming", "warming": "warm", "warm": "warm"}[kept.text]
    return factor


@pytest.mark.parametrize("turn", [first_differs, warming_up])
def test_a_text_whose_first_call_is_another_is_refused(turn: Turn) -> None:
    with pytest.raises(Refused, match=r"second call computes something else|changes .*kept\.text"):
        traced_text(turn)


def test_a_first_step_that_is_another_is_refused() -> None:
    with pytest.raises(
        Refused, match=r"second call computes something else than its first, which changes the cache\.text"
    ):
        traced_step(warming_up)


def test_constants_that_a_first_call_has_made_otherwise_are_seen() -> None:
    def turn(kept: Any) -> Tensor:
        number = torch.tensor(0.5 if kept.text == "" else 0.9)
        kept.text = "begun"
        return number

    with pytest.raises(Refused, match="second call computes something else"):
        traced_text(turn)


def test_what_is_kept_in_a_module_is_as_before() -> None:
    model = OfWholeTexts(told(change_much))
    trace(model, CONTEXT)
    assert (model.kept.names, model.kept.table, model.kept.text) == (set(), {}, "")
    assert list(model.kept.queue) == [0.5, 0.9, 0.7]


class Making(collections.OrderedDict[str, Any]):
    """Makes what it is asked for of the class that lies in it, as tables of activations do."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name)()


TABLE = Making(tanh=nn.Tanh)


def test_a_dictionary_that_makes_what_it_gives_is_left_as_it_is() -> None:
    traced_text(lambda kept: 0.5 if TABLE["tanh"](torch.zeros(1)) is not None else kept)
    assert dict.__getitem__(TABLE, "tanh") is nn.Tanh


def test_a_part_that_the_first_call_has_exchanged_is_put_back() -> None:
    class Exchanging(OfWholeTexts):
        def forward(self, tokens: Tensor) -> Tensor:
            if self.kept.text == "":
                self.kept.text = "exchanged"
                self.add_module("head", nn.Sequential(self.head))
            return super().forward(tokens)

    model = Exchanging(lambda _: 0.5)
    head = model.head
    trace(model, CONTEXT)
    assert model.head is head
    assert model.kept.text == ""
