"""What a model keeps from call to call is found wherever it is, handed back to it, and left as it was."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoconvert.errors import Inseparable, Refused
from autoconvert.tracing.past import Past, past_of, takes_texts_together, token_by_token
from tests import models
from tests.models import CONTEXT, VOCABULARY, WIDTH
from tests.steps import Cached, Stepping


def decaying(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    state = kept[0] * 0.5 + model.embed(token)[:, 0]
    return torch.tanh(state), [state]


@dataclass
class Kept:
    """What a model may make for its past: tensors among what are none, and one of them twice."""

    states: dict[str, Any]
    name: str = "kept"
    again: Any = None


class Keeping(nn.Module):
    """`wrap` makes of a state [batch, width] what is given back, `unwrap` the state of that."""

    def __init__(self, wrap: Callable[[Tensor], Any], unwrap: Callable[[Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.wrap, self.unwrap = wrap, unwrap
        self.eval()

    def run(self, tokens: Tensor, kept: Any) -> tuple[Tensor, Tensor]:
        state = torch.zeros(len(tokens), WIDTH) if kept is None else self.unwrap(kept)
        rows = []
        for x in self.embed(tokens).unbind(1):
            state = state * 0.5 + x
            rows.append(torch.tanh(state))
        return self.head(torch.stack(rows, 1)), state

    def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
        logits, state = self.run(tokens, memory)
        return {"logits": logits, "memory": self.wrap(state)}


def shared(state: Tensor) -> Kept:
    return Kept({"x": state}, again=state)


FORMS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor], list[str]]] = {
    "list": (lambda s: [None, s], lambda kept: kept[1], [".1"]),
    "tuple of dicts": (lambda s: ({"x": s},), lambda kept: kept[0]["x"], [".0.x"]),
    "object": (lambda s: SimpleNamespace(inner=SimpleNamespace(x=s)), lambda kept: kept.inner.x, [".inner.x"]),
    "twice in an object": (shared, lambda kept: kept.states["x"], [".states.x"]),
    "beside numbers": (lambda s: [s, 3, "name", 0.5], lambda kept: kept[0], [".0"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_tensors_are_found_in_whatever_holds_them(name: str) -> None:
    wrap, unwrap, paths = FORMS[name]
    past = past_of(Keeping(wrap, unwrap), CONTEXT)
    assert past.parameter == "memory"
    assert list(past.tensors) == paths
    assert past.shapes == [((WIDTH,), torch.float32)]


def stepped(module: nn.Module, past: Past, tokens: list[int], size: int) -> Tensor:
    """Logits [tokens, vocabulary], what is kept handed on from zeros."""
    values = [torch.zeros(1, *shape, dtype=dtype) for shape, dtype in past.shapes]
    rows = []
    for offset, token in enumerate(tokens):
        counts = [torch.full(counter.shape, offset) for counter in past.counters.values()]
        with torch.no_grad():
            stepped = past.step(module, torch.tensor([[token]]), values, counts, torch.tensor(offset), {})
        values = stepped.past.values
        rows.append(stepped.logits[0, 0])
    assert rows[0].shape == (size,)
    return torch.stack(rows)


@pytest.mark.parametrize("name", FORMS)
def test_a_step_goes_on_from_what_it_is_given(name: str) -> None:
    wrap, unwrap, _ = FORMS[name]
    module, tokens = Keeping(wrap, unwrap), models.random_ids()
    logits = stepped(module, past_of(module, CONTEXT), tokens, VOCABULARY)
    models.assert_same(logits, models.logits_of_source(module, tokens))


def test_a_step_leaves_the_example_as_it_is() -> None:
    module = Keeping(*FORMS["twice in an object"][:2])
    past = past_of(module, CONTEXT)
    before = [tensor.clone() for tensor in past.values]
    stepped(module, past, models.random_ids(), VOCABULARY)
    assert all(torch.equal(old, new) for old, new in zip(before, past.values, strict=True))


class Writing(Keeping):
    """Gives back nothing: it writes into what it was passed, which transformers' cache stands for."""

    def __init__(self) -> None:
        super().__init__(lambda s: s, lambda kept: kept)
        self.config = models.tiny_llama().config

    def forward(self, tokens: Tensor, past_key_values: Any = None, use_cache: bool = False) -> dict[str, Any]:
        logits, state = self.run(tokens, getattr(past_key_values, "memory", None))
        if past_key_values is not None:
            past_key_values.memory = state
        return {"logits": logits}


class WritingIntoACache(nn.Module):
    """As transformers names it since 5.24, and `use_cache` among what it passes on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Writing()
        self.config = self.inner.config

    def forward(self, tokens: Tensor, cache: Any = None, **options: bool) -> dict[str, Any]:
        return self.inner.forward(tokens, cache, **options)


@pytest.mark.parametrize(("made", "name"), [(Writing, "past_key_values"), (WritingIntoACache, "cache")])
def test_a_cache_that_the_model_fills_is_made_for_it(made: type[nn.Module], name: str) -> None:
    module, tokens = made(), models.random_ids()
    past = past_of(module, CONTEXT)
    assert past.parameter == name
    assert list(past.tensors) == [".memory"]
    models.assert_same(stepped(module, past, tokens, VOCABULARY), models.logits_of_source(module, tokens))


class Holding(Keeping):
    """Keeps its state as an attribute of a submodule."""

    def __init__(self) -> None:
        super().__init__(lambda s: s, lambda kept: kept)
        self.inner = nn.Identity()
        self.inner.held = None  # type: ignore[assignment]

    def forward(self, tokens: Tensor, use_cache: bool = False) -> Tensor:  # type: ignore[override]
        logits, state = self.run(tokens, self.inner.held if use_cache else None)
        if use_cache:
            self.inner.held = state
            self.inner.made_by_the_call = state * 2
        return logits


def test_attributes_of_submodules_are_found_and_put_back() -> None:
    module, tokens = Holding(), models.random_ids()
    past = past_of(module, CONTEXT)
    assert past.parameter is None
    assert list(past.attributes) == [("inner", "held"), ("inner", "made_by_the_call")]
    models.assert_same(stepped(module, past, tokens, VOCABULARY), models.logits_of_source(module, tokens))
    assert vars(module.inner)["held"] is None
    assert "made_by_the_call" not in vars(module.inner)


class Counting(Keeping):
    """Beside the state a count of all tokens, which is of no text, and one for each text."""

    def __init__(self) -> None:
        super().__init__(lambda s: s, lambda kept: kept[0])

    def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
        logits, state = self.run(tokens, memory)
        seen, each = (torch.zeros(1).long(), torch.zeros(len(tokens)).long()) if memory is None else memory[1:]
        return {"logits": logits, "memory": [state, seen + tokens.shape[1], each + tokens.shape[1]]}


def test_whole_numbers_of_no_text_are_counters() -> None:
    past = past_of(Counting(), CONTEXT)
    assert list(past.counters) == [".1"]
    assert past.shapes == [((WIDTH,), torch.float32), ((), torch.int64)]


def test_keys_and_values_are_no_states() -> None:
    """They stand for every position, of which there is a prime number: no product of heads and widths."""
    module = Cached()
    past = past_of(module, CONTEXT)
    assert past.parameter == "past_key_values"
    assert past.values == []
    assert [layer.slots for layer in past.kept.layers] == [37]
    assert past_of(module, 37).kept.layers[0].slots == 37


def test_a_field_of_tensors_is_no_past() -> None:
    """Logits that forward also takes are not handed back to it."""

    class TakingTensors(Keeping):
        def forward(  # type: ignore[override]
            self, tokens: Tensor, logits: Any = None, memory: Any = None, use_cache: bool = False
        ) -> dict[str, Any]:
            return super().forward(tokens, memory)

    assert past_of(TakingTensors(*FORMS["list"][:2]), CONTEXT).parameter == "memory"


def test_a_model_that_gives_back_nothing_is_refused() -> None:
    class Forgetting(Keeping):
        def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
            return {"logits": self.run(tokens, None)[0]}

    with pytest.raises(Refused, match="it gives back nothing that its forward accepts"):
        past_of(Forgetting(*FORMS["list"][:2]), CONTEXT)


def test_a_model_that_takes_no_cache_is_refused() -> None:
    with pytest.raises(Refused, match="its forward takes no `use_cache`"):
        token_by_token(models.Decoder(), [1, 2])


def test_code_that_fails_is_told_with_its_line() -> None:
    class Failing(Keeping):
        def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
            raise ValueError("no such path")

    with pytest.raises(Inseparable, match="path for a single token cannot be run: no such path") as refusal:
        past_of(Failing(*FORMS["list"][:2]), CONTEXT)
    assert 'raise ValueError("no such path")' in refusal.value.hint


def test_texts_are_taken_together_where_each_gets_its_logits() -> None:
    module = Keeping(*FORMS["list"][:2])
    assert takes_texts_together(module, past_of(module, CONTEXT))


def test_a_model_whose_logits_are_of_one_text_takes_no_more() -> None:
    class OfOne(Keeping):
        def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
            output = super().forward(tokens, memory)
            return {**output, "logits": output["logits"][:1]}

    module = OfOne(*FORMS["list"][:2])
    assert not takes_texts_together(module, past_of(module, CONTEXT))


class Growing(Keeping):
    """Keeps what it has seen [batch, tokens, width]."""

    def __init__(self) -> None:
        super().__init__(lambda s: s, lambda kept: kept)

    def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
        seen = torch.cat([*([] if memory is None else memory), self.embed(tokens)], 1)
        return {"logits": self.head(seen.cumsum(1))[:, -tokens.shape[1] :], "memory": [seen]}


def test_a_tensor_that_grows_is_refused_with_its_path_and_sizes() -> None:
    module = Growing()
    message = r"keeps at \.0 is \[2, 5, 8\] after 5 tokens of 2 texts and \[2, 6, 8\] after one more"
    with pytest.raises(Refused, match=message):
        takes_texts_together(module, past_of(module, CONTEXT))


def test_a_state_that_no_text_has_is_refused() -> None:
    class OfAll(Keeping):
        def forward(self, tokens: Tensor, memory: Any = None, use_cache: bool = False) -> dict[str, Any]:
            logits, state = self.run(tokens, None)
            return {"logits": logits, "memory": [state.mean(0, keepdim=True)]}

    module = OfAll(*FORMS["list"][:2])
    with pytest.raises(Refused, match="neither a state per text nor keys and values"):
        takes_texts_together(module, past_of(module, CONTEXT))


@pytest.mark.parametrize(
    "module",
    [Keeping(*FORMS["object"][:2]), Holding(), Growing(), Cached(), Stepping(decaying, (WIDTH,))],
    ids=["object", "attributes", "growing", "cache", "states"],
)
def test_token_by_token_is_the_models_own_path(module: nn.Module) -> None:
    """With the past as the model makes it, growing or not."""
    tokens = models.random_ids()
    models.assert_same(token_by_token(module, tokens), models.logits_of_source(module, tokens))


def test_token_by_token_leaves_the_module_as_it_was() -> None:
    module = Holding()
    token_by_token(module, [1, 2, 3])
    assert vars(module.inner)["held"] is None
    assert "made_by_the_call" not in vars(module.inner)
