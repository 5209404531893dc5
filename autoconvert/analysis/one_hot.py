"""Masks that say where a number is a given one: read back to the numbers that they come from."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autoconvert.ir.nodes import arguments, first_operand, named_arguments, shape

aten = torch.ops.aten


@dataclass(frozen=True)
class OneHot:
    """A value that is not 0 where `numbers` [...] is the place on the axis of classes.

    Of each axis of the value, `axes` has the axis of `numbers` that it is, or None for that of the `classes`.
    """

    numbers: fx.Node
    axes: tuple[int | None, ...]
    classes: int


@dataclass(frozen=True)
class ClassMask:
    """A value that is not 0 where `numbers` is `number`; its axes are those of `numbers` in the order of `axes`."""

    numbers: fx.Node
    axes: tuple[int, ...]
    number: int


def class_mask(node: fx.Node) -> ClassMask | None:
    """What the mask says, where it is one class of a one-hot code in canonical form, or numbers compared with one."""
    if node.target is aten.eq.Scalar:
        compared, number = arguments(node)
        if type(number) is not int or number < 0 or compared.meta["val"].is_floating_point():
            return None
        return ClassMask(compared, tuple(range(len(shape(compared)))), number)
    if node.target is not aten.select.int:
        return None
    source, axis, number = arguments(node)
    code = one_hot(source)
    if code is None or not isinstance(number, int) or code.axes[axis] is not None:
        return None
    return ClassMask(code.numbers, tuple(a for a in code.axes if a is not None), number % code.classes)


def one_hot(node: fx.Node) -> OneHot | None:
    """The numbers behind a one-hot code, through casts and exchanged axes."""
    if node.target is aten.eq.Tensor:
        return _compared(*arguments(node))
    if node.target not in (aten._to_copy.default, aten.transpose.int, aten.permute.default):
        return None
    code = one_hot(first_operand(node))
    if code is None or node.target is aten._to_copy.default:
        return code
    axes = list(code.axes)
    if node.target is aten.permute.default:
        axes = [axes[axis] for axis in arguments(node)[1]]
    else:
        _, first, second = arguments(node)
        axes[first], axes[second] = axes[second], axes[first]
    return OneHot(code.numbers, tuple(axes), code.classes)


def _compared(wide: Any, classes: Any) -> OneHot | None:
    """`numbers[..., None] == arange(classes)`."""
    if not isinstance(wide, fx.Node) or wide.target is not aten.unsqueeze.default or arguments(wide)[1] != -1:
        return None
    if not isinstance(classes, fx.Node) or classes.target is not aten.arange.default or len(classes.args) != 1:
        return None
    numbers, (count,) = first_operand(wide), arguments(classes)
    return OneHot(numbers, (*range(len(shape(numbers))), None), count) if isinstance(count, int) else None


def below(numbers: fx.Node) -> int | None:
    """A number that all are less than, where that is known: places among the entries of an axis."""
    if numbers.target in (aten.reshape.default, aten._to_copy.default, aten.slice.Tensor, aten.select.int):
        return below(first_operand(numbers))
    chosen = _places(numbers)
    if chosen is None or named_arguments(chosen)["dim"] is None:
        return None
    size = shape(first_operand(chosen))[named_arguments(chosen)["dim"]]
    return size if isinstance(size, int) else None


def differ_along(numbers: fx.Node, axis: int) -> bool:
    """Whether no two numbers along `axis` are the same: places of the largest of an axis, each of which is one."""
    size = shape(numbers)[axis]
    if size == 1:
        return True
    if numbers.target is aten._to_copy.default and not numbers.meta["val"].is_floating_point():
        return differ_along(first_operand(numbers), axis)
    chosen = _places(numbers)
    if chosen is None or chosen.target is not aten.topk.default:
        return False
    rank = len(shape(numbers))
    return bool(named_arguments(chosen)["dim"] % rank == axis % rank)


def _places(numbers: fx.Node) -> fx.Node | None:
    """The operation that gives `numbers` as places along its `dim`."""
    if numbers.target is aten.argmax.default:
        return numbers
    if numbers.target is not operator.getitem or arguments(numbers)[1] != 1:
        return None
    chosen = first_operand(numbers)
    return chosen if chosen.target is aten.topk.default else None
