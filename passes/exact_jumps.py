"""Exact jumps: where a jump, such as `floor` or a comparison, of counted numbers falls is decided without rounding.

A device rounds `tokens / 41` in another way than PyTorch, so that its floor may be another whole number. A quotient of
whole numbers is divided as such. What each token decides alone is looked up in a table of the vocabulary.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.input_ranges import input_ranges, vocabulary
from autoconvert.analysis.intervals import ANYTHING, Interval, at
from autoconvert.analysis.invariants import POSITIONS_MATERIALIZED, SCANS_STATEFUL
from autoconvert.analysis.op_traits import is_pointwise
from autoconvert.analysis.ranges import Ranges, called_scan, ranges
from autoconvert.analysis.regions import ancestors, extract
from autoconvert.analysis.rounding import Rounding, Roundings, rounded_jump, roundings, roundings_in_step
from autoconvert.errors import Refused
from autoconvert.ir.editing import add_constant, emit, finish, replace
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import arguments, is_symbolic, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.scan.scan import Scan

aten = torch.ops.aten

# Up to here a quotient of whole numbers, rounded to float32, is no other whole number than the exact one.
_DIGITS = 24
_DOWN = {aten.floor.default}
_TOWARD_ZERO = {aten.trunc.default, aten._to_copy.default}
# Of these the inputs hold counted numbers; of others they are learned.
_EXACT_ROLES = (Role.TOKENS, Role.INPUT_POS, Role.MASK)


def exact_jumps(program: Program, context: int) -> Program:
    """Rewrites each jump that rounding could decide, to a form that does not round.

    Raises:
        Refused: a jump of counted numbers has no such form.
    """
    graph = program.graph
    while True:
        found = ranges(graph, input_ranges(program, context), context)
        known = roundings(graph, _inputs(program), found, context)
        jumps = list(_rounded_jumps(graph, known, found, context))
        if not jumps:
            return program.with_graph(finish(graph))
        # The last first: what it is looked up by, no other jump is computed for.
        if not any(_rewritten(program, jump, known, found) for jump in reversed(jumps)):
            raise Refused(
                f"{location(jumps[0])} jumps where its operand, which is computed of tokens and not learned, is "
                "rounded: on a device it may fall on the other side.",
                hint="Compute it of whole numbers: `//` and `%` of integers are exact.",
                at=jumps[0].name,
            )


def _rewritten(program: Program, jump: fx.Node, known: Roundings, found: Ranges) -> bool:
    """Whether an exact form has taken the place of `jump`; inside a scan there is none."""
    if jump not in known:
        return False
    new = _whole_quotient(jump, known, found) or _looked_up(program, jump)
    if new is None:
        return False
    replace(jump, new)
    program.graph.graph.eliminate_dead_code()
    return True


def _inputs(program: Program) -> dict[fx.Node, Rounding]:
    placeholders = program.graph.graph.find_nodes(op="placeholder")
    return {n: Rounding.EXACT for n in placeholders if program.roles[str(n.target)] in _EXACT_ROLES}


def _rounded_jumps(graph: fx.GraphModule, known: Roundings, found: Ranges, context: int) -> Iterator[fx.Node]:
    for node in graph.graph.nodes:
        if node.op == "call_module":
            scan, operands = called_scan(node)
            if isinstance(scan, Scan):
                yield from _rounded_jumps(scan.step, *roundings_in_step(scan, operands, known, found, context), context)
        elif rounded_jump(node, known, found) is not None:
            yield node


def _whole_quotient(jump: fx.Node, known: Roundings, found: Ranges) -> fx.Node | None:
    """floor(x / c) of a whole number by a whole number, both exact, is their whole quotient."""
    quotient = jump.args[0]
    if jump.target not in _DOWN | _TOWARD_ZERO or not isinstance(quotient, fx.Node):
        return None
    if quotient.target is not aten.div.Tensor or quotient.kwargs:
        return None
    dividend, divisor = arguments(quotient)
    number = at(divisor) if isinstance(divisor, int | float) else found.get(divisor, ANYTHING)
    if not _is_exact(dividend, known, found) or not (number.low == number.high >= 1 and number.whole):
        return None
    if (jump.target in _TOWARD_ZERO and found[dividend].low < 0) or not number.is_held_by(_DIGITS):
        return None
    with jump.graph.inserting_before(jump):
        counted = emit(jump.graph, aten._to_copy.default, dividend, dtype=torch.int64, like=jump)
        divided = emit(jump.graph, aten.floor_divide.default, counted, int(number.low), like=jump)
        return emit(jump.graph, aten._to_copy.default, divided, dtype=jump.meta["val"].dtype, like=jump)


def _is_exact(node: Any, known: Roundings, found: Mapping[fx.Node, Interval]) -> bool:
    if not isinstance(node, fx.Node) or known[node] is not Rounding.EXACT:
        return False
    return found[node].whole and found[node].is_held_by(_DIGITS)


def _looked_up(program: Program, jump: fx.Node) -> fx.Node | None:
    """What each token decides alone, by a table [vocabulary, 1]."""
    tokens = program.find_input(Role.TOKENS)
    if tokens is None or not all(_is_of_tokens(node, tokens) for node in ancestors([jump])):
        return None
    table = _narrow(_evaluated(program.graph, jump, vocabulary(program)))
    if table is None:
        return None
    graph, dtype = program.graph.graph, jump.meta["val"].dtype
    sizes = [-1 if is_symbolic(size) else size for size in shape(jump)]
    with graph.inserting_before(jump):
        matrix = add_constant(program.graph, f"by_token_{jump.name}", table.reshape(-1, 1), jump)
        rows = emit(graph, aten.embedding.default, matrix, tokens, like=jump)
        found = emit(graph, aten.reshape.default, rows, sizes, like=jump)
        if dtype == torch.bool:
            return emit(graph, aten.ne.Scalar, found, 0, like=jump)
        return found if table.dtype == dtype else emit(graph, aten._to_copy.default, found, dtype=dtype, like=jump)


def _is_of_tokens(node: fx.Node, tokens: fx.Node) -> bool:
    """Whether a value is the tokens, one number, or computed entry by entry."""
    if node.op != "call_function":
        return node is tokens or (node.op == "get_attr" and not shape(node))
    is_value = isinstance(node.meta.get("val"), Tensor)
    return is_value and is_pointwise(node.target) and shape(node) in ((), shape(tokens))


def _evaluated(owner: fx.GraphModule, jump: fx.Node, count: int) -> Tensor:
    """The values of `jump` for every token."""
    with torch.no_grad():
        (values,) = extract(owner, [jump])(torch.arange(count)[None])
    assert isinstance(values, Tensor)
    return values


def _narrow(table: Tensor) -> Tensor | None:
    """The same numbers in a type that a device looks up; None where they do not fit."""
    narrow = table.to(torch.float32 if table.is_floating_point() else torch.int32)
    return narrow if bool((narrow.to(table.dtype) == table).all()) else None


PASS = Pass(
    "exact-jumps",
    "Where a jump of counted numbers falls, such as a floor, is decided without rounding.",
    lambda program, options: exact_jumps(program, options.context),
    requires=(POSITIONS_MATERIALIZED, SCANS_STATEFUL),
)
