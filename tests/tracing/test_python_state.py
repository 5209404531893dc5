"""A number that Python keeps from call to call is proven to be read by nothing, or refused by its name and line."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoconvert.errors import Refused
from autoconvert.tracing.one_step import trace_one_step
from autoconvert.tracing.past import past_of
from autoconvert.tracing.trace import trace
from tests.models import CONTEXT, VOCABULARY, WIDTH

CALLS = 0


class Counted(nn.Module):
    """A decaying state [batch, width] beside numbers; `read(self, memory, state)` gives the factor of the decay."""

    def __init__(self, read: Callable[["Counted", Any], Any]) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.read, self.calls, self.constant, self.log = read, 0, 0.5, {"seen": 0}
        self.eval()

    def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
        if memory is None:
            memory = SimpleNamespace(state=torch.zeros(len(tokens), WIDTH), count=0, scale=1.0, held=[0], seen={"n": 0})
        rows = []
        for x in self.embed(tokens).unbind(1):
            memory.state = memory.state * self.read(self, memory) + x
            rows.append(torch.tanh(memory.state))
        memory.count += tokens.shape[1]
        memory.seen["n"] += tokens.shape[1]
        memory.scale = memory.scale + 0.25
        memory.held[0] += 1
        return {"logits": self.head(torch.stack(rows, 1)), "memory": memory}


def counting_calls(model: Counted, _: Any) -> float:
    model.calls += 1
    return 0.9 if model.calls > 30 else 0.5


def counting_in_a_dict(model: Counted, _: Any) -> float:
    model.log["seen"] += 1
    return 0.9 if model.log["seen"] % 2 else 0.5


def counting_in_the_file(_: Counted, __: Any) -> float:
    global CALLS
    CALLS += 1
    return 0.9 if CALLS > 30 else 0.5


def counting_in_the_class(model: Counted, _: Any) -> float:
    type(model).of_all += 1  # type: ignore[attr-defined]
    return 0.9 if type(model).of_all > 30 else 0.5  # type: ignore[attr-defined]


Counted.of_all = 0  # type: ignore[attr-defined]

READ: dict[str, tuple[Callable[[Counted, Any], Any], str]] = {
    "compared": (lambda _, m: 0.9 if m.count >= 30 else 0.5, r"the cache\.count"),
    "equal": (lambda _, m: 0.9 if m.count == 30 else 0.5, r"the cache\.count"),
    "window": (lambda _, m: 0.9 if m.count % 8 else 0.5, r"the cache\.count"),
    "multiplied": (lambda _, m: m.count, r"the cache\.count"),
    "added to a tensor": (lambda _, m: torch.ones(1) + m.count, r"the cache\.count"),
    "as a size": (lambda _, m: torch.ones(m.count + 1).mean(), r"the cache\.count"),
    "made a tensor": (lambda _, m: torch.tensor(m.count) / 64, r"the cache\.count"),
    "filled": (lambda _, m: torch.full((1,), m.count), r"the cache\.count"),
    "as a float": (lambda _, m: m.scale * torch.ones(1), r"the cache\.scale"),
    "as a truth": (lambda _, m: 0.9 if m.count else 0.5, r"the cache\.count"),
    "in a list": (lambda _, m: 0.9 if m.held[0] > 30 else 0.5, r"the cache\.held\[0\]"),
    "in a dict": (lambda _, m: 0.9 if max(m.seen["n"], 3) > 3 else 0.5, r"the cache\.seen\['n'\]"),
    "of a module": (counting_calls, r"Counted\.calls"),
    "in a module's dict": (counting_in_a_dict, r"Counted\.log\['seen'\]"),
    "of the file": (counting_in_the_file, "CALLS of tests.tracing.test_python_state"),
    "of the class": (counting_in_the_class, r"Counted\.of_all"),
}


@pytest.mark.parametrize("name", READ)
def test_a_number_that_is_read_is_refused_by_its_name_and_line(name: str) -> None:
    read, path = READ[name]
    model = Counted(read)
    before = model.calls, dict(model.log), CALLS, Counted.of_all  # type: ignore[attr-defined]
    with pytest.raises(Refused, match=path) as refusal:
        trace_one_step(model, past_of(model, CONTEXT), CONTEXT)
    assert "test_python_state.py:" in refusal.value.hint
    assert (model.calls, model.log, CALLS, Counted.of_all) == before  # type: ignore[attr-defined]


UNREAD: dict[str, Callable[[Counted, Any], Any]] = {
    "not at all": lambda _, __: 0.5,
    "what does not change": lambda model, __: model.constant,
    "whether there was any": lambda _, m: 0.5 if m.count >= 0 else 0.9,
    "beyond the context": lambda _, m: 0.5 if m.count < 1000 else 0.9,
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_number_on_which_nothing_depends_is_no_matter(name: str) -> None:
    model = Counted(UNREAD[name])
    program = trace_one_step(model, past_of(model, CONTEXT), CONTEXT)
    assert [state.dtype for state in program.states] == [torch.float32]


def test_a_list_that_grows_is_refused() -> None:
    class Growing(Counted):
        def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
            output = super().forward(tokens, memory)
            output["memory"].held.append(1)
            return output

    model = Growing(lambda *_: 0.5)
    with pytest.raises(Refused, match=r"changes the length of the cache\.held from call to call: 3, then 4"):
        trace_one_step(model, past_of(model, CONTEXT), CONTEXT)


class Calls(nn.Module):
    """A model without a past, whose forward counts its calls."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.calls, self.factor = 0, factor

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.embed(tokens) * self.factor(self.calls))


@pytest.mark.parametrize(
    "factor", [lambda n: float(n), lambda n: 2.0 if n > 30 else 1.0, lambda n: 1.0 if n == 1 else 2.0]
)
def test_a_text_whose_logits_depend_on_the_calls_before_is_refused(factor: Callable[[int], float]) -> None:
    with pytest.raises(Refused, match=r"Calls\.calls|decoder\.calls"):
        trace(Calls(factor), CONTEXT)


def test_calls_that_are_only_counted_are_no_matter() -> None:
    model = Calls(lambda _: 1.0)
    trace(model, CONTEXT)
    assert model.calls == 0
