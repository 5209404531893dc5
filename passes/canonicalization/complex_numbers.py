"""Complex numbers are pairs of real ones: no complex value reaches a pattern or a device.

Rotary embeddings are often written as products of complex numbers; here they become the sines and cosines that
they are.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.op_traits import is_lookup, is_movement
from autoconvert.ir.editing import emit, finish

aten = torch.ops.aten

# Real and imaginary part; a part may be a plain number.
Pair = tuple[Any, Any]

# These too are the same for each part.
_LINEAR = {aten.neg.default, aten.add.Tensor, aten.sub.Tensor}
_CASTS = {aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device}


def real_pairs(graph: fx.GraphModule) -> fx.GraphModule:
    """Rewrites `graph` in place to real arithmetic; one with a complex operation that is not known stays as it is."""
    if not any(_is_complex(node) for node in graph.graph.nodes):
        return graph
    pairs = _Pairs(graph)
    for node in list(graph.graph.nodes):
        if not node.users or not any(map(_is_complex, (node, *node.all_input_nodes))):
            continue
        with graph.graph.inserting_before(node):
            if not pairs.rewrite(node):
                return finish(graph)
    for node, value in pairs.replaced.items():
        node.replace_all_uses_with(value)
    return finish(graph)


def _is_complex(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.is_complex()


class _Pairs:
    """The pair of each complex node, and the real value that takes the place of a real node over complex ones."""

    def __init__(self, owner: fx.GraphModule) -> None:
        self._owner = owner
        self._pairs: dict[fx.Node, Pair] = {}
        self.replaced: dict[fx.Node, fx.Node] = {}

    def rewrite(self, node: fx.Node) -> bool:
        """Whether the node's operation is known."""
        if not _is_complex(node):
            real = self._real(node)
            if real is not None:
                self.replaced[node] = real
            return real is not None
        pair = self._pair(node)
        if pair is not None:
            self._pairs[node] = pair
        return pair is not None

    def _real(self, node: fx.Node) -> fx.Node | None:
        if not all(isinstance(part, fx.Node) for part in self._parts(node.args[0])):
            return None
        if node.target is aten.sym_size.int:
            return emit(node.graph, node.target, self._parts(node.args[0])[0], *node.args[1:], like=node)
        if node.target is aten.view_as_real.default:
            return emit(node.graph, aten.stack.default, list(self._parts(node.args[0])), -1, like=node)
        if node.target in (aten.real.default, aten.imag.default):
            part: fx.Node = self._parts(node.args[0])[0 if node.target is aten.real.default else 1]
            return part
        return None

    def _parts(self, value: Any) -> Pair:
        """A real operand has no imaginary part."""
        if isinstance(value, complex):
            return value.real, value.imag
        return self._pairs[value] if _is_complex(value) else (value, 0.0)

    def _pair(self, node: fx.Node) -> Pair | None:
        if node.op == "get_attr":
            return self._constant(node, "real"), self._constant(node, "imag")
        known = _ARITHMETIC.get(node.target)
        if known is not None:
            return known(node, *map(self._parts, node.args))
        if node.target is aten.view_as_complex.default:
            first, second = (emit(node.graph, aten.select.int, node.args[0], -1, i, like=node) for i in (0, 1))
            return first, second
        if node.target in _CASTS:
            # Of another width its parts would be as well.
            source = node.args[0]
            same = _is_complex(source) and source.meta["val"].dtype == node.meta["val"].dtype  # type: ignore[union-attr]
            return self._parts(source) if same else None
        return self._by_parts(node) if _is_by_parts(node) else None

    def _constant(self, node: fx.Node, part: str) -> fx.Node:
        value = getattr(getattr(self._owner, str(node.target)), part).contiguous()
        name = f"{node.target}_{part}"
        self._owner.register_buffer(name, value)
        constant = node.graph.get_attr(name)
        constant.meta = {**node.meta, "val": node.meta["val"].fake_mode.from_tensor(value, static_shapes=True)}
        return constant

    def _by_parts(self, node: fx.Node) -> Pair | None:
        """The operation on each part; not where a real tensor is among complex operands."""
        operands = [operand for operand in node.all_input_nodes if isinstance(operand.meta["val"], Tensor)]
        indices = [operand for operand in operands if not _is_complex(operand)]
        wholes = [part for operand in operands if _is_complex(operand) for part in self._pairs[operand]]
        is_plain = all(isinstance(part, fx.Node) for part in wholes) and not _adds_a_number(node)
        # Of a lookup real operands are indices; in a sum they have no imaginary part to add.
        if not is_plain or (indices and not is_lookup(node.target)):
            return None
        return self._on_part(node, 0), self._on_part(node, 1)

    def _on_part(self, node: fx.Node, which: int) -> fx.Node:
        def part(operand: fx.Node) -> Any:
            return self._pairs[operand][which] if _is_complex(operand) else operand

        args, kwargs = fx.map_arg((node.args, node.kwargs), part)
        return emit(node.graph, node.target, *args, like=node, **kwargs)  # type: ignore[arg-type]


def _is_by_parts(node: fx.Node) -> bool:
    """What moves or picks entries does so with each part."""
    return is_movement(node.target) or is_lookup(node.target) or node.target in _LINEAR


def _adds_a_number(node: fx.Node) -> bool:
    """A sum with a number or a factor is not the same for both parts."""
    is_sum = node.target in (aten.add.Tensor, aten.sub.Tensor)
    return is_sum and (bool(node.kwargs) or not all(isinstance(value, fx.Node) for value in node.args))


def _times(node: fx.Node, a: Any, b: Any) -> Any:
    if not isinstance(a, fx.Node) and not isinstance(b, fx.Node):
        return a * b
    if 0.0 in (a, b):
        return 0.0
    if not isinstance(a, fx.Node):
        a, b = b, a
    return emit(node.graph, aten.mul.Tensor, a, b, like=node)


def _plus(node: fx.Node, a: Any, b: Any) -> Any:
    if not isinstance(b, fx.Node) and b == 0:
        return a
    if not isinstance(a, fx.Node) and a == 0:
        return b
    return emit(node.graph, aten.add.Tensor, a, b, like=node)


def _minus(node: fx.Node, a: Any, b: Any) -> Any:
    if not isinstance(b, fx.Node) and b == 0:
        return a
    if not isinstance(a, fx.Node) and a == 0:
        return emit(node.graph, aten.neg.default, b, like=node)
    return emit(node.graph, aten.sub.Tensor, a, b, like=node)


def _product(node: fx.Node, left: Pair, right: Pair) -> Pair:
    (a, b), (c, d) = left, right
    real = _minus(node, _times(node, a, c), _times(node, b, d))
    return real, _plus(node, _times(node, a, d), _times(node, b, c))


def _polar(node: fx.Node, length: Pair, angle: Pair) -> Pair:
    cos, sin = (emit(node.graph, wave, angle[0], like=node) for wave in (aten.cos.default, aten.sin.default))
    return _times(node, length[0], cos), _times(node, length[0], sin)


def _exponential(node: fx.Node, power: Pair) -> Pair:
    """e^(a + bi) = e^a (cos b + i sin b)."""
    real, imaginary = power
    cos, sin = (emit(node.graph, wave, imaginary, like=node) for wave in (aten.cos.default, aten.sin.default))
    if not isinstance(real, fx.Node):
        return (cos, sin) if real == 0 else (_times(node, torch.e**real, cos), _times(node, torch.e**real, sin))
    length = emit(node.graph, aten.exp.default, real, like=node)
    return _times(node, length, cos), _times(node, length, sin)


def _conjugate(node: fx.Node, value: Pair) -> Pair:
    return value[0], _minus(node, 0.0, value[1])


_ARITHMETIC: dict[Any, Callable[..., Pair]] = {
    aten.mul.Tensor: _product,
    aten.polar.default: _polar,
    aten.exp.default: _exponential,
    aten.complex.default: lambda node, real, imaginary: (real[0], imaginary[0]),
    aten._conj.default: _conjugate,
    aten.conj.default: _conjugate,
    aten.conj_physical.default: _conjugate,
    aten.resolve_conj.default: lambda node, value: value,
}
