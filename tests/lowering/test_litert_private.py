"""The private way through litert-torch gives what its public one gives."""

from collections import Counter
from typing import Any

import litert_torch
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import traced
from autoconvert.lowering import litert_private
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import operator_name, read_model
from autoconvert.lowering.legalize import legalize
from autoconvert.lowering.litert import quiet
from autoconvert.lowering.litert_private import convert, told_apart
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, run_passes
from autoconvert.tracing.trace import trace
from tests.models import signatures
from tests.plain_llama import PlainLlama


class Pointwise(nn.Module):
    """What other decoders have besides: a norm with a mean, other activations, a split and a norm."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        y = nn.functional.layer_norm(x, (8,), weight, bias)
        left, right = nn.functional.gelu(y, approximate="tanh").chunk(2, dim=-1)
        return {"y": torch.cat((left.relu() * right.tanh(), right.exp()), -1).softmax(-1)}


def operations(content: bytes) -> Counter[str]:
    model = read_model(content)
    return Counter(operator_name(model, operator) for graph in model.subgraphs for operator in graph.operators)


@pytest.mark.parametrize("name", ["prefill_6", "decode"])
def test_signatures_have_the_operations_of_the_public_conversion(name: str) -> None:
    program = run_passes(trace(PlainLlama().eval(), 24), Options(24, PATTERNS, lambda *_: None, CPU), PASSES)
    graph = legalize(signatures(program, (6,))[name].graph, CPU).eval()
    inputs = {str(node.target): node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")}
    with quiet():
        public = litert_torch.signature(name, graph, sample_kwargs=inputs).convert().model_content()
        private = convert(name, graph, inputs)
    assert operations(private) == operations(public)


def test_other_operations_are_covered_by_the_one_round() -> None:
    inputs = {"x": torch.randn(2, 8), "weight": torch.randn(8), "bias": torch.randn(8)}
    with quiet():
        public = litert_torch.signature("run", Pointwise().eval(), sample_kwargs=inputs).convert().model_content()
        mode = FakeTensorMode()
        fakes = {name: mode.from_tensor(value) for name, value in inputs.items()}
        private = convert("run", legalize(traced(Pointwise(), fakes), CPU).eval(), fakes)
    assert operations(private) == operations(public)


def test_numbers_that_are_equal_but_not_the_same_are_told_apart() -> None:
    told = [told_apart(("full", ((2, 3), number))) for number in (0, 0.0, -0.0, False, 1, 1.0, True)]
    assert len(set(told)) == len(told)
    assert told_apart(("full", ((2, 3), 1.0))) == told_apart(("full", ((2, 3), 1.0)))


def test_jax_lowers_what_two_signatures_have_in_common_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from litert_torch.backend.jax_bridge import _wrap

    monkeypatch.setattr(litert_private, "_stablehlo", {})
    made: list[str] = []
    lower = _wrap._lower_to_ir_text

    def counted(*args: Any, **kwargs: Any) -> Any:
        text, inputs = lower(*args, **kwargs)

        def once() -> str:
            made.append(text())
            return made[-1]

        return once, inputs

    monkeypatch.setattr(_wrap, "_lower_to_ir_text", counted)
    mode = FakeTensorMode()
    sizes: dict[str, tuple[int, ...]] = {"x": (2, 8), "weight": (8,), "bias": (8,)}
    fakes = {name: mode.from_tensor(torch.zeros(size)) for name, size in sizes.items()}
    contents, lowered = [], []
    for name in ("one", "other"):
        with quiet():
            contents.append(convert(name, legalize(traced(Pointwise(), fakes), CPU).eval(), fakes))
        lowered.append(len(made))
    assert lowered[0] == lowered[1] > 3
    assert operations(contents[0]) == operations(contents[1])
