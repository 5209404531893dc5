"""A trace holds for every call if the state of Python that it begins with is the one that it leaves.

What one call changes and the next does not, such as a flag of the first, has settled: the trace must be the same before
and after. A number that every call changes is hidden, and no trace may read it. Anything else that calls keep changing
is refused by its place.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from autoconvert.errors import Refused
from autoconvert.tracing.python_state import state_of, state_restored
from autoconvert.tracing.snapshot import Change, Place, Snapshot, changes
from autoconvert.tracing.unread import Unread, unread


def trace_settled(module: nn.Module, trace: Callable[[], ExportedProgram]) -> ExportedProgram:
    """What `trace` gives, which calls `module`, if every other call of the module would give the same.

    Raises:
        Refused: what the module computes depends on how often it was called.
    """
    start, hidden = Snapshot(), list[tuple[Place, Unread]]()
    before = after = start
    forward = module.forward

    # Exporting puts back attributes, so that what a call changes is seen at its end only.
    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal before, after
        start.put_back()
        for place, number in hidden:
            place.put(number)
        before = state_of(module)
        result = forward(*args, **kwargs)
        after = state_of(module)
        return result

    with state_restored(module):
        module.forward = watched
        try:
            traced = trace()
            once = changes(before, after)
            if not once:
                return traced
            start = after
            refuse_another(traced, trace(), once)
            changed = changes(before, after)
            if not changed:
                return traced
            refuse_changes(change for change in changed if not change.place)
            start = before
            hidden = [(change.place, unread_of(change, sys.maxsize)) for change in changed if change.place]
            traced = trace()
            refuse_changes(changes(before, after))
            return traced
        finally:
            del module.forward


def unread_of(change: Change, calls: int) -> Unread:
    """What hides a number that each of up to `calls` calls changes."""
    assert change.old and change.new
    return unread(change.path, change.old.value, change.new.value, calls)


def refuse_changes(changed: Iterable[Change]) -> None:
    """Refuses what changes from call to call and is no number that could be hidden."""
    for change in changed:
        raise Refused(
            f"The model changes {change}.", hint="Only tensors of one size are kept from call to call."
        )


def refuse_another(first: ExportedProgram, second: ExportedProgram, between: Iterable[Change]) -> None:
    """Refuses two traces that are not the same program, between which there were changes."""
    if str(first.graph) == str(second.graph) and _same_constants(first.constants, second.constants):
        return
    change = next(iter(between))
    raise Refused(
        f"The model's second call computes something else than its first, which changes {change.path}.",
        hint="Only tensors are kept from call to call.",
    )


def _same_constants(first: dict[str, Any], second: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            return a is b
        return a.dtype == b.dtype and torch.equal(a, b)

    return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
