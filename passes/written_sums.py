"""Written sums: `y[places] += rows` is read, added to and written; where no place comes twice it is one addition."""

import operator

import torch
from torch import fx

from autoconvert.analysis.one_hot import class_mask, differ_along
from autoconvert.ir.editing import emit, replace
from autoconvert.ir.nodes import arguments, first_operand, named_arguments, shape

aten = torch.ops.aten

PLACES = {aten.where.default, aten.nonzero_numpy.default}


def written_sums(graph: fx.Graph) -> None:
    """Makes `index_add` of what is written at the places of one class, and adds to what stood there."""
    for node in graph.find_nodes(op="call_function", target=aten.index_put.default):
        base, indices, values = arguments(node)[:3]
        given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
        if len(given) != 1 or given[0][1].target is not operator.getitem:
            continue
        axis, places = given[0]
        if named_arguments(node)["accumulate"]:
            added = values
        else:
            added = _added(values, base, indices) if _comes_once(places) else None
        if added is not None and _is_as_wide(added, base, axis):
            with graph.inserting_before(node):
                total = emit(graph, aten.index_add.default, base, axis - len(shape(base)), places, added, like=node)
            replace(node, total)
    # What was read only to be added to is a user of the sum no more.
    graph.eliminate_dead_code()


def _is_as_wide(added: fx.Node, base: fx.Node, axis: int) -> bool:
    """Whether nothing is repeated when rows are added along an axis."""
    own, whole = ([str(size) for at, size in enumerate(shape(node)) if at != axis] for node in (added, base))
    return len(shape(added)) == len(shape(base)) and own == whole


def _added(values: fx.Node, base: fx.Node, indices: list[fx.Node | None]) -> fx.Node | None:
    """What is added to the entries of `base` at `indices`."""
    if values.target is not aten.add.Tensor or len(values.args) != 2 or values.kwargs:
        return None
    for old, added in (arguments(values), reversed(arguments(values))):
        is_read = isinstance(old, fx.Node) and old.target is aten.index.Tensor and first_operand(old) is base
        if is_read and list(arguments(old)[1]) == list(indices) and isinstance(added, fx.Node):
            return added if shape(added) and str(shape(added)) == str(shape(values)) else None
    return None


def _comes_once(places: fx.Node) -> bool:
    """Whether no two true entries of the mask have the same place along the axis."""
    source, axis = arguments(places)
    mask = class_mask(first_operand(source)) if source.target in PLACES else None
    if mask is None:
        return False
    others = [other for place, other in enumerate(mask.axes) if place != axis]
    return not others or (len(others) == 1 and differ_along(mask.numbers, others[0]))
