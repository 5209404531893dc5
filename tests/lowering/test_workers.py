"""Other processes lower to the same bytes, pass errors on, and end when nobody needs them."""

import os
import signal
from pathlib import Path

import psutil
import pytest
import torch

from autoconvert.errors import AutoconvertError
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.workers import start_workers
from tests.lowering.test_litert import lowered, operations, parts


def test_a_worker_lowers_to_the_same_operations_and_passes_errors_on() -> None:
    with start_workers() as workers:
        program = parts()["decode"]
        assert operations(lowered("decode")) == operations(workers.lower("decode", program, CPU).result())
        broken = Program(torch.fx.symbolic_trace(Unlowerable()))
        for node in broken.graph.graph.nodes:
            node.meta["val"] = torch.empty(2, 2)
        with pytest.raises(Exception, match="matrix_exp"):
            workers.lower("broken", broken, CPU).result()


class Unlowerable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.linalg.matrix_exp(x)}


def test_two_programs_are_lowered_at_a_time_by_two_processes() -> None:
    with start_workers() as workers:
        assert workers.lower("decode", parts()["decode"], CPU).result()
        lowering = [workers.lower("decode", parts()["decode"], CPU) for _ in range(2)]
        assert len({each.result() for each in lowering}) == 1
        assert len(members(workers._process.pid)) == (2 if Path("/proc/self/task").is_dir() else 1)


def members(group: int) -> list[int]:
    """The processes of a process group."""
    return [process.pid for process in psutil.process_iter() if os.getpgid(process.pid) == group]


def test_the_death_of_a_worker_is_said() -> None:
    with start_workers() as workers:
        lowering = [workers.lower("decode", parts()["decode"], CPU) for _ in range(3)]
        os.killpg(workers._process.pid, signal.SIGKILL)
        for each in lowering:
            with pytest.raises(AutoconvertError, match="process that lowers decode ended with -9: it said nothing"):
                each.result()


def test_the_workers_end_with_their_context() -> None:
    with start_workers() as workers:
        process = workers._process
    assert process.poll() is not None
    assert not members(process.pid)
