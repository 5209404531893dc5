"""Which pass a wrong file comes from: each program that the passes make is run beside the source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from autoconvert.check.graph import run_chunks
from autoconvert.check.parity import TOLERANCE, distance
from autoconvert.check.readings import Reading
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location, operation_in_module, source_line
from autoconvert.runtime.chunks import Chunk, split
from autoconvert.source.weights import Weights

_TEXT = {Role.TOKENS, Role.POSITIONS}
_CHUNKS = {Role.TOKENS, Role.INPUT_POS, Role.MASK}
# Values of one node before and after a pass, in units of the larger root mean square.
_SAME = 1e-3

# What tells a node's values from others: the first one's shape, and of all root mean square and means.
Print = tuple[tuple[int, ...], tuple[float, ...]]


@dataclass
class Blame:
    """Told each program in turn; `verdict` names the first pass whose program is wrong, and a place in it.

    So do `blamed`, `at` and `line`, one by one and as `CheckFailed` has them.

    `expected` float32 [compared, vocabulary] is what the source says of `reading`, by which the file was found wrong:
    another text may not reach the place.
    """

    weights: Weights
    reading: Reading
    expected: Tensor
    verdict: str = ""
    blamed: str = ""
    at: str = ""
    line: str = ""
    _last_right: str = "the trace"
    _prints: Mapping[str, Print] = field(default_factory=dict)

    def begin(self) -> None:
        """Another trace begins: what was seen of one before it was not kept."""
        self.verdict = self.blamed = self.at = self.line = ""
        self._last_right, self._prints = "the trace", {}

    def see(self, name: str, program: Program) -> None:
        """Runs the program as pass `name` leaves it, unless one before it was wrong; what cannot be run is left out."""
        if self.verdict or (run := self._run(program)) is None:
            return
        worst, prints = run
        if worst <= TOLERANCE:
            self._last_right, self._prints = name, prints
            return
        self.verdict = f"It is right after {self._last_right} and wrong by {worst:.2g} σ after {name}"
        self.blamed = name
        if (node := self._first_changed(program, prints)) is not None:
            self.at, self.line = operation_in_module(node), source_line(node)
            self.verdict += f", where values first change at {location(node)}"
        self.verdict += "."

    def is_right(self, program: Program) -> bool:
        """Whether the program, the last one, gives what the source does: then none before it is to blame."""
        run = self._run(program)
        return run is not None and run[0] <= TOLERANCE

    def _first_changed(self, program: Program, prints: Mapping[str, Print]) -> fx.Node | None:
        named = (node for node in program.graph.graph.nodes if node.name in prints and node.name in self._prints)
        return next((node for node in named if not _alike(prints[node.name], self._prints[node.name])), None)

    def _run(self, program: Program) -> tuple[float, dict[str, Print]] | None:
        """How far the logits are from the source's, and a print of each node's values; None where it cannot be run."""
        roles, reading = {port.role for port in program.inputs}, self.reading
        if roles == _TEXT:
            ids = torch.tensor([reading.tokens])
            positions = torch.arange(reading.start, reading.start + reading.length)[None]
            chunks = [Chunk({Role.TOKENS: ids, Role.POSITIONS: positions}, reading.length)]
        elif roles == _CHUNKS:
            capacity = int(shape(program.input(Role.MASK))[-1])
            chunks = split(reading.tokens, reading.sizes, capacity, reading.start)
        else:
            return None
        prints: dict[str, Print] = {}

        def see(node: fx.Node, values: list[object]) -> None:
            tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
            if tensors and tensors[0].numel():
                prints[node.name] = _print(tensors)

        outputs = run_chunks(program, self.weights, chunks, program.result(Role.LOGITS), see)
        logits = [output[0, : part.real] for output, part in zip(outputs, chunks, strict=True)]
        return float(distance(torch.cat(logits)[reading.compared], self.expected).max()), prints


def _print(values: Sequence[Tensor]) -> Print:
    flat = torch.cat([value.reshape(-1) for value in values]).double()
    # Random weights, the same each time: their mean changes where numbers change places.
    weights = torch.randn(len(flat), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = (flat.square().mean().sqrt(), flat.mean(), flat @ weights / len(flat) ** 0.5)
    return tuple(values[0].shape), tuple(map(float, numbers))


def _alike(one: Print, other: Print) -> bool:
    """Whether two prints may be of the same values; one of another shape says nothing."""
    (shape, numbers), (other_shape, other_numbers) = one, other
    scale = max(numbers[0], other_numbers[0], 1e-30)
    return shape != other_shape or all(abs(a - b) <= _SAME * scale for a, b in zip(numbers, other_numbers, strict=True))
