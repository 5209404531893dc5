"""Tables of positions: the values that depend on positions alone, for every position up to the context."""

import bisect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.binding_times import Time
from autoconvert.analysis.constants import same_but_for_rounding, same_constant
from autoconvert.analysis.masks import same_mask
from autoconvert.analysis.regions import extract
from autoconvert.errors import Refused
from autoconvert.ir.editing import add_constant, emit
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import concrete, is_symbolic, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.passes.head_by_head import HeadByHead

aten = torch.ops.aten

# A mask of heads · context² numbers and its intermediates must fit beside everything else.
_LONGEST_MASK = 16384
# A table that has no closed form is a constant of the file.
LARGEST_TABLE = 256 << 20


def fits(node: fx.Node, context: int) -> bool:
    """Whether a table of the whole value is small enough to be evaluated."""
    return sum(map(is_symbolic, shape(node))) < 2 or context <= _longest(node)


def _longest(node: fx.Node) -> int:
    return int(_LONGEST_MASK / math.prod(size for size in shape(node) if not is_symbolic(size)) ** 0.5)


def evaluate(program: Program, nodes: list[fx.Node], times: dict[fx.Node, Time], context: int) -> list[Tensor]:
    for node in nodes:
        if not fits(node, context):
            raise Refused(
                f"The mask at {location(node)} would need {context}² entries for each head to be evaluated.",
                hint=f"Choose a context of at most {_longest(node)} with --context.",
            )
    region = extract(program.graph, nodes)
    tables = _run(region, program.roles, context)

    def changed(tables: list[Tensor], shorter: int) -> fx.Node | None:
        """The first node whose value for a text of length `shorter` is not how its table begins."""
        pairs = zip(nodes, tables, _run(region, program.roles, shorter), strict=True)
        return next((node for node, table, part in pairs if not _begins_with(node, table, part, times)), None)

    # A value that changes when the sequence grows is no function of the position.
    for shorter in _shorter_lengths(context):
        if (different := changed(tables, shorter)) is not None:
            most = _longest_alike(
                context, lambda long, short: changed(_run(region, program.roles, long), short) is None
            )
            raise Refused(
                f"The value of {location(different)} at one position depends on how long the sequence is "
                f"(it differs between lengths {shorter} and {context}).",
                hint=f"It does not up to {most} positions: choose --context {most} or less." if most else "",
                shorter=most,
            )
    return tables


def evaluate_heads(
    program: Program, node: fx.Node, times: dict[fx.Node, Time], context: int
) -> Iterator[Tensor] | None:
    """The same of one value a head at a time, each [..., 1, ..., context, context]; None where that cannot be."""
    split = HeadByHead(program, node, context)
    if not split.is_possible or context > _LONGEST_MASK:
        return None

    def tables() -> Iterator[Tensor]:
        whole: dict[int, dict[fx.Node, Any]] = {}
        for head in range(split.heads):
            table = split.run(head, context, whole.setdefault(context, {}))
            for shorter in _shorter_lengths(context):
                if not _begins_with(node, table, split.run(head, shorter, {}), times):
                    raise Refused(
                        f"The value of {location(node)} at one position depends on how long the sequence is "
                        f"(it differs between lengths {shorter} and {context}).",
                        hint=f"Choose a context of at most {_longest(node)} with --context to see up to where.",
                    )
            yield table

    return tables()


def _begins_with(node: fx.Node, table: Tensor, part: Tensor, times: dict[fx.Node, Time]) -> bool:
    """Whether the value of `node` for a long text says of the first positions what `part`, of a shorter one, does."""
    leading = table[tuple(slice(0, size) for size in part.shape)]
    is_same = same_constant(leading, part) or same_but_for_rounding(leading, part)
    return is_same or _same_for_attention(table, part, later_users(node, times), node)


def _longest_alike(context: int, alike: Callable[[int, int], bool]) -> int | None:
    """The longest length below `context` that is like all shorter ones; None where that is the shortest of all."""
    longest = bisect.bisect_left(range(context), True, lo=3, key=lambda length: not alike(length, 2)) - 1
    is_alike = longest > 2 and all(alike(longest, length) for length in _shorter_lengths(longest))
    return longest if is_alike else None


def _same_for_attention(table: Tensor, part: Tensor, users: list[fx.Node], node: fx.Node) -> bool:
    """A mask may change with the length by what changes no softmax (MPT counts the distance from the last key)."""
    if not users or not all(is_mask_of(node, user) for user in users):
        return False
    return same_mask(table, part, relative=all(is_relative(user) for user in users))


def is_relative(attention: fx.Node) -> bool:
    return named_arguments(attention)["sinks"] is None


def _shorter_lengths(context: int) -> list[int]:
    """Every small length, and both sides of each power of two: a threshold shows between two of them."""
    powers = [2**exponent for exponent in range(1, context.bit_length())]
    around = {power + step for power in powers for step in (-1, 0, 1)}
    return sorted(n for n in {*range(2, 18), *around, context // 2, context - 1} if 2 <= n < context)


def _run(region: fx.GraphModule, roles: Mapping[str, Role], length: int) -> list[Tensor]:
    """The values of `region` for a text of `length`; of other inputs than positions only the shape counts."""

    def value(node: fx.Node) -> Tensor:
        if roles[str(node.target)] is Role.POSITIONS:
            return torch.arange(length)[None]
        return torch.zeros([concrete(size, length) for size in shape(node)], dtype=node.meta["val"].dtype)

    with torch.no_grad():
        return list(region(*map(value, region.graph.find_nodes(op="placeholder"))))


def later_users(node: fx.Node, times: dict[fx.Node, Time]) -> list[fx.Node]:
    return [user for user in node.users if times.get(user) is not Time.POSITION]


def is_mask_of(node: fx.Node, user: fx.Node) -> bool:
    return user.target is ops.attention and named_arguments(user)["mask"] is node


def rows_at(graph: fx.GraphModule, name: str, table: Tensor, input_pos: fx.Node, like: fx.Node) -> fx.Node:
    """The rows of a table [context, ...] at `input_pos`, as a matrix.

    Raises:
        Refused: the table is larger than a file should hold.
    """
    if table.nbytes > LARGEST_TABLE:
        raise Refused(
            f"The values at {location(like)} are a table of {table.nbytes >> 20} MB that follows no known rule.",
            hint="Choose a smaller --context.",
        )
    matrix = add_constant(graph, name, narrow(table).reshape(table.shape[0], -1), like)
    return emit(graph.graph, aten.embedding.default, matrix, input_pos, like=like)


def narrow(table: Tensor) -> Tensor:
    """Indices fit int32, which is what the device computes with."""
    return table.to(torch.int32) if table.dtype == torch.int64 else table
