"""Any module becomes a program by its ports."""

import torch
from torch import Tensor, nn

from autoconvert.ir.interface import Port, Role
from autoconvert.ir.model import Model, Signature
from autoconvert.ir.nodes import named_results
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.specialize_shapes import signature_programs
from autoconvert.tracing.module import trace_module


class Sums(nn.Module):
    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.stack([value.sum() for value in values]).sum()
        return total, total + 1


def test_each_input_may_have_a_length_of_its_own() -> None:
    names = [f"length_{index}" for index in range(6)]
    ports = [Port(f"in_{name}", Role.HIDDEN, torch.float32, (1, name)) for name in names]
    program = trace_module(Sums(), ports, [("a", Role.HIDDEN), ("b", Role.HIDDEN)], dict.fromkeys(names, 64))
    assert set(program.symbols) == set(names)
    assert len({program.symbols[name] for name in names}) == len(names)


def test_what_has_one_role_keeps_its_own_names() -> None:
    """A target's name for a role names one input or one output."""
    ports = [Port(name, Role.TOKENS, torch.int64, (1, "length")) for name in ("question", "answer")]
    outputs = [("logits", Role.LOGITS), ("draft", Role.LOGITS)]
    program = trace_module(Sums(), ports, outputs, {"length": 64})
    ((_, part),) = signature_programs(Model({"p": program}, (Signature("s", "p", {"length": 3}),)), CPU.port_names)
    assert [port.name for port in part.inputs] == ["question", "answer"]
    assert list(named_results(part.graph.graph)) == ["logits", "draft"]
