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
from torch import Tensor, fx, nn
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

    # Exporting puts back attributes, so that what a call changes is seen at its end only. Tensors that a call makes are
    # of its trace: the next one makes them again.
    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal before, after
        start.put_back()
        for place, number in hidden:
            place.put(number)
        before = state_of(module, known=original)
        result = forward(*args, **kwargs)
        after = state_of(module, known=original)
        return result

    # Weights are named before the module is called, as those of its source are.
    def trace_from(state: Snapshot) -> ExportedProgram:
        nonlocal start
        original.put_back()
        module.forward, start = watched, state
        return trace()

    with state_restored(module) as original:
        try:
            traced = trace_from(start)
            once = changes(before, after)
            if not once:
                return traced
            refuse_another(traced, trace_from(after), once)
            changed = changes(before, after)
            if not changed:
                return traced
            refuse_changes(change for change in changed if not change.place)
            hidden = [(change.place, unread_of(change, sys.maxsize)) for change in changed if change.place]
            traced = trace_from(before)
            refuse_changes(changes(before, after))
            return traced
        finally:
            vars(module).pop("forward", None)


def unread_of(change: Change, calls: int) -> Unread:
    """What hides a number that each of up to `calls` calls changes."""
    assert change.old and change.new
    return unread(change.path, change.old.value, change.new.value, calls)


def refuse_changes(changed: Iterable[Change]) -> None:
    """Refuses what changes from call to call and is no number that could be hidden."""
    for change in changed:
        raise Refused(f"The model changes {change}.", hint="Only tensors of one size are kept from call to call.")


def refuse_another(first: ExportedProgram, second: ExportedProgram, between: Iterable[Change]) -> None:
    """Refuses two traces that are not the same program, between which there were changes."""
    # A trace that writes nothing is as the model was written; spelled out, it may be the same as one that does.
    if _is_same(first, second) or _is_same(first.run_decompositions({}), second.run_decompositions({})):
        return
    change = next(iter(between))
    raise Refused(
        f"The model's second call computes something else than its first, which changes {change.path}.",
        hint="Only tensors are kept from call to call.",
    )


def _spelled(exported: ExportedProgram) -> list[str]:
    """What a program computes, in its order, whatever its nodes are named; inputs and weights by their names."""
    lines = []
    for module in exported.graph_module.modules():
        names: dict[fx.Node, str] = {}
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            names[node] = node.name if node.op == "placeholder" else f"%{len(names)}"
            args, kwargs = fx.map_arg((node.args, node.kwargs), names.__getitem__)
            lines.append(f"{names[node]} = {node.op} {node.target} {args} {kwargs}")
    return lines


def _is_same(first: ExportedProgram, second: ExportedProgram) -> bool:
    """Whether two traces are the same operations on the same weights and constants."""
    constants, others = first.constants, second.constants
    return (
        _spelled(first) == _spelled(second)
        and constants.keys() == others.keys()
        and all(map(_is_same_constant, constants.values(), (others[name] for name in constants)))
    )


def _is_same_constant(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)
