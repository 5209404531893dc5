"""Loops over the places where something is true: traced for every place, with a mark where each iteration begins.

`for place in mask.nonzero()` runs as often as there are true entries, which no trace knows. A trace that visits every
place is a trace of this loop only if an iteration whose entry is false would have changed nothing. That takes two
proofs. In the graph: iterations hand on nothing but a sum to which they add what is zero for false entries
(passes/loops_to_pairs); until then the marks stand in it, which no lowering knows. Beside the graph, where Python may
count: a second trace, that visits no place, must be the same but for the iterations.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from autoconvert import ops
from autoconvert.analysis.iterations import check_isolated, check_same
from autoconvert.tracing.untraceable import is_ours


class Places(TorchFunctionMode):
    """Gives for the places of a vector what can only be iterated over; everything else is as it was.

    `most` limits the places that are visited of vectors by their size: an iteration that cannot be traced, such as
    that for a class without weights, must be one that never happens. `under_way` has the iteration that is being
    traced, by the size of the vector. Where an iteration asks whether it has any entry, the answer is `some`.
    """

    def __init__(self, most: dict[int, int], *, some: bool = True) -> None:
        super().__init__()
        self.most, self.some = most, some
        self.under_way: dict[int, int] = {}
        self.sizes: set[int] = set()
        self.loops = 0
        self.was_asked = self.was_asked_in_this = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.nonzero, Tensor.nonzero) and not kwargs.get("as_tuple"):
            mask = args[0] if args else kwargs["input"]
            if mask.dim() == 1 and isinstance(mask.shape[0], int):
                return _Visited(mask, self)
        result = func(*args, **kwargs)
        if func in (torch.numel, Tensor.numel) and self.under_way and isinstance(result, torch.SymInt):
            return _Count(self)
        return result


class _Visited:
    """The rows of `mask.nonzero()`, as an iterable and nothing more: how many there are is not to be asked."""

    def __init__(self, mask: Tensor, mode: Places) -> None:
        self._mask, self._mode = mask, mode

    def __iter__(self) -> Iterator[Tensor]:
        size, loop = self._mask.shape[0], self._mode.loops
        self._mode.loops += 1
        self._mode.sizes.add(size)
        most = self._mode.most.get(size, size)
        for number in range(most):
            self._mark(number, loop)
            self._mode.under_way[size] = number
            self._mode.was_asked_in_this = False
            yield torch.tensor([number])
            del self._mode.under_way[size]
        self._mark(most, loop)

    def _mark(self, number: int, loop: int) -> None:
        torch._assert_async(ops.visit(self._mask, number, loop), "the places of a loop")


class _Count:
    """How many entries something in an iteration has: to be compared with 0, once."""

    def __init__(self, mode: Places) -> None:
        self._mode = mode

    def __bool__(self) -> bool:
        return self != 0

    def __eq__(self, other: object) -> bool:
        if type(other) is not int or other != 0 or self._mode.was_asked_in_this:
            raise TypeError("how many entries of a mask are true is not known")
        self._mode.was_asked = self._mode.was_asked_in_this = True
        return not self._mode.some

    __hash__ = None  # type: ignore[assignment]


def trace_loops(trace: Callable[[], ExportedProgram]) -> ExportedProgram:
    """Calls `trace` so that loops over places visit every place, and proves what the marks cannot show.

    An iteration that cannot be traced is left out with what follows it.

    Raises:
        Inseparable: a value made in an iteration is used otherwise than in a sum, or Python is told of iterations.
    """
    places, traced = _trace_most(trace)
    if not places.sizes:
        return traced
    check_isolated(traced.graph)
    with Places(dict.fromkeys(places.sizes, 0)):
        # Where something is written, operations are spelled out, and where nothing is, as they were traced.
        without = trace().run_decompositions({})
    check_same(traced.run_decompositions({}), without)
    if places.was_asked:
        with Places(places.most, some=False):
            check_same(trace().run_decompositions({}), without, sums=False)
    return traced


def _trace_most(trace: Callable[[], ExportedProgram]) -> tuple[Places, ExportedProgram]:
    most: dict[int, int] = {}
    while True:
        places = Places(most)
        try:
            with places:
                return places, trace()
        except Exception as error:
            if is_ours(error):
                raise
            failed = {size: number for size, number in places.under_way.items() if size not in most and number}
            if not failed:
                raise
            most = most | failed
