"""The code of a dump runs, and computes what the graph does."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autoconvert.dump.code import CONSTANTS, code
from autoconvert.dump.snapshot import Photographer
from autoconvert.ir.program import Program
from autoconvert.ops.semantic import operation
from tests.dump.dumped import dump_of
from tests.models import WIDTH, Decoder, rewrite, signatures, tiny_llama, traced
from tests.scan.test_running_sum import CountingFromTokens
from tests.source.tiny import CONFIGS, build
from tests.steps import Recurrent
from tests.tracing.test_one_step import convolving, decaying


def module_of(program: Program, folder: Path) -> ModuleType:
    constants: dict[str, Tensor] = {}
    written = code("code", Photographer({}, {})(program), constants, {LEAKY.overload: LEAKY.device})
    save_file(constants, folder / CONSTANTS)
    module = ModuleType("code")
    module.__file__ = str(folder / "code.py")
    exec(compile(written, module.__file__, "exec"), vars(module))
    return module


def assert_computes_the_same(program: Program, folder: Path) -> None:
    module = module_of(program, folder)
    inputs: dict[str, Tensor] = module.inputs()
    with torch.no_grad():
        written = module.Graph()(**inputs)
        expected = program.graph(*inputs.values())
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        assert value.dtype == written[name].dtype
        torch.testing.assert_close(written[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "mixtral"])
def test_code_gives_what_the_graph_gives(name: str, tmp_path: Path) -> None:
    module = build(CONFIGS[name]).eval()
    assert_computes_the_same(traced(module), tmp_path)
    program = rewrite(module)
    assert_computes_the_same(program, tmp_path)
    for part in signatures(program, [4]).values():
        assert_computes_the_same(part, tmp_path)


@pytest.mark.parametrize(
    "module",
    [lambda: Recurrent(decaying, WIDTH), lambda: Recurrent(convolving, WIDTH, 2), CountingFromTokens],
    ids=["scan", "shift register", "running sum"],
)
def test_code_of_scans_gives_what_they_give(module: Any, tmp_path: Path) -> None:
    seen: list[str] = []

    def compare(step: Any, program: Program) -> None:
        if step.name in ("batch-to-sequence", "insert-scan-states"):
            assert_computes_the_same(program, tmp_path)
            seen.append(step.name)

    made: nn.Module = module()
    rewrite(made, after=compare)
    assert "insert-scan-states" in seen


def _leaky(x: Tensor, slope: float, shift: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope) + shift


LEAKY = operation(_leaky)


class Leaking(Decoder):
    """Calls an operation of a pattern from outside, twice alike and once with another number."""

    def __init__(self) -> None:
        super().__init__(mix=lambda _, x: LEAKY(LEAKY(LEAKY(x, 0.1, self.shift), 0.1, self.shift), 0.3, self.shift))
        self.register_buffer("shift", torch.arange(float(WIDTH)))


def test_operations_that_patterns_bring_are_written_out(tmp_path: Path) -> None:
    program = traced(Leaking())
    snapshot = Photographer({}, {})(program)
    assert [entry.operation for entry in snapshot.entries].count("_leaky") == 3
    written = code("code", snapshot, {}, {LEAKY.overload: LEAKY.device})
    assert "outside" not in written and written.count("class Leaky") == 2
    assert_computes_the_same(program, tmp_path)


def test_a_file_of_a_dump_runs_by_itself(tmp_path: Path) -> None:
    """In our words and in the target's."""
    dump_of(tiny_llama(num_hidden_layers=1), tmp_path)
    for step, length in (("insert-kv-cache", 7), ("decode-legalized", 1)):
        run = [sys.executable, str(next(tmp_path.glob(f"*-{step}.py")))]
        said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        assert f"logits (1, {length}, 97) torch.float32" in said
