"""Loops to pairs: a loop that runs each expert on its own tokens becomes one computation for pairs of both.

Such a loop picks, for each class of a one-hot code, the rows that belong to it, computes on them with parameters of
that class, and adds the results to a sum at the rows they came from. As every row is computed alone, all rows may be
computed at once, each with the parameters of its own class: `expert_linear` then reads only those.
"""

import dataclasses
import operator
from collections.abc import Container
from dataclasses import dataclass

import torch
from torch import fx

from autoconvert import ops
from autoconvert.analysis.invariants import NO_ASSERTIONS, NO_LOOPS
from autoconvert.analysis.iterations import Iteration, iterations
from autoconvert.analysis.one_hot import ClassMask, OneHot, below, class_mask, one_hot
from autoconvert.errors import Inseparable
from autoconvert.ir.editing import emit, finish
from autoconvert.ir.nodes import arguments, first_operand, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.passes.row_tables import NotRowwise
from autoconvert.passes.rows_to_pairs import Pairs, isomorphic, on_pairs
from autoconvert.passes.written_sums import PLACES, written_sums
from autoconvert.rewrite.pass_manager import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class Link:
    """One addition to a sum: `node` adds `rows` of class `mask` where they came from, along `axis` of the numbers.

    `columns` are the places of the mask's true entries, one vector for each of its axes.
    """

    node: fx.Node
    mask: ClassMask
    columns: tuple[fx.Node | None, ...]
    axis: int

    @property
    def rows(self) -> fx.Node:
        rows: fx.Node = arguments(self.node)[3]
        return rows


def loops_to_pairs(program: Program) -> Program:
    """Replaces every loop over the classes of a one-hot code; a program without one stays as it is.

    That iterations are isolated was proven when they were traced.

    Raises:
        Inseparable: a loop over what tokens decide does something else.
    """
    graph = program.graph
    if not any(node.target in PLACES or node.target is ops.visit for node in graph.graph.nodes):
        return program
    written_sums(graph.graph)
    made = iterations(graph.graph)
    chains = _chains(graph.graph)
    _check_visits(graph.graph, made, [link for chain in chains for link in chain])
    for chain in chains:
        _replace(chain, program.weights)
    for node in graph.graph.find_nodes(op="call_function", target=aten._assert_async.msg):
        if first_operand(node).target is ops.visit:
            graph.graph.erase_node(node)
    return dataclasses.replace(program, graph=finish(graph))


def _chains(graph: fx.Graph) -> list[list[Link]]:
    """Additions that follow each other on one sum, all by the same numbers."""
    chains: list[list[Link]] = []
    for link in filter(None, map(_link, graph.nodes)):
        last = chains[-1][-1] if chains else None
        if (
            last is not None
            and first_operand(link.node) is last.node
            and list(last.node.users) == [link.node]
            and (last.mask.numbers, last.axis) == (link.mask.numbers, link.axis)
        ):
            chains[-1].append(link)
        else:
            chains.append([link])
    return chains


def _link(node: fx.Node) -> Link | None:
    """`node` as an addition of picked rows at the places they were picked from."""
    if node.target is not aten.index_add.default or len(node.args) != 4 or node.kwargs:
        return None
    total, dim, index, _ = arguments(node)
    places = first_operand(index) if index.target is operator.getitem else None
    mask = class_mask(first_operand(places)) if places is not None and places.target in PLACES else None
    if mask is None or places is None or dim not in (0, -len(shape(total))):
        return None
    columns: list[fx.Node | None] = [None] * len(mask.axes)
    for user in places.users:
        columns[arguments(user)[1]] = user
    return Link(node, mask, tuple(columns), mask.axes[arguments(index)[1]])


def _check_visits(graph: fx.Graph, made: dict[fx.Node, Iteration], links: list[Link]) -> None:
    """An iteration that happens only for some classes adds nothing for the others, and happens for all that matter."""
    masks = {link.node: link.mask for link in links}
    for node, iteration in made.items():
        if node.target is aten.index_add.default:
            mask, code = masks.get(node), _counted(iteration.hit)
            if mask is None or code is None or (mask.numbers, mask.number) != (code.numbers, iteration.number):
                raise Inseparable(f"{location(node)}: the loop around it depends on the values of tokens.")
    visited = {arguments(mark)[0]: arguments(mark)[1] for mark in graph.nodes if mark.target is ops.visit}
    for hit, end in visited.items():
        code = _counted(hit)
        limit = None if code is None else below(code.numbers) or code.classes
        if limit is None or end < limit:
            raise Inseparable(f"{location(hit)}: a loop over its true entries depends on the values of tokens.")


def _counted(hit: fx.Node) -> OneHot | None:
    """The code of which `hit` says for each class whether it occurs at all."""
    if hit.target is not aten.gt.Scalar or arguments(hit)[1] != 0:
        return None
    total = first_operand(hit)
    code = one_hot(first_operand(total)) if total.target is aten.sum.dim_IntList else None
    if code is None or len(total.args) != 2 or total.kwargs:
        return None
    over = {axis % len(code.axes) for axis in arguments(total)[1]}
    return code if over == {place for place, axis in enumerate(code.axes) if axis is not None} else None


def _replace(chain: list[Link], weights: Container[str]) -> None:
    """The sum with all rows added at once, for each run of classes that are computed alike."""
    total, last = first_operand(chain[0].node), chain[-1].node
    with last.graph.inserting_before(last):
        for run in _runs(chain, weights):
            try:
                added = on_pairs(_pairs(run), [link.rows for link in run], [link.columns for link in run], weights)
            except NotRowwise as reason:
                raise Inseparable(
                    f"{location(run[0].node)}: a loop whose rows are not computed alone: {reason}."
                ) from None
            total = emit(last.graph, aten.add.Tensor, total, added, like=last)
    last.replace_all_uses_with(total)


def _runs(chain: list[Link], weights: Container[str]) -> list[list[Link]]:
    """Links of consecutive classes that compute the same but for parameters."""
    runs: list[list[Link]] = []
    for link in sorted(chain, key=lambda link: link.mask.number):
        first = runs[-1][0] if runs else None
        if (
            first is not None
            and link.mask.number == runs[-1][-1].mask.number + 1
            and isomorphic(first.rows, first.columns, link.rows, link.columns, weights) is not None
        ):
            runs[-1].append(link)
        else:
            runs.append([link])
    return runs


def _pairs(run: list[Link]) -> Pairs:
    first, last = run[0].mask, run[-1].mask
    return Pairs(first.numbers, first.axes, run[0].axis, first.number, last.number + 1)


PASS = Pass(
    "loops-to-pairs",
    "A loop that runs each expert on its own tokens becomes one computation for pairs of both.",
    lambda program, _: loops_to_pairs(program),
    requires=(NO_ASSERTIONS,),
    ensures=(NO_LOOPS,),
)
