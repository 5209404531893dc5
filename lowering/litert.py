"""Lowering: a specialised graph becomes a small LiteRT flatbuffer that has its weights as inputs."""

import contextlib
import logging
import os
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from autoconvert import ops
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.program import Program
from autoconvert.lowering import lookup, repetition, sorting
from autoconvert.lowering.experts import expert_linear
from autoconvert.lowering.provenance import locate
from autoconvert.ops.attention import attend, laid_out
from autoconvert.ops.semantic import Body
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.decomposition import expand_nodes
from autoconvert.system.stderr import redirected_stderr


def lower(name: str, program: Program) -> bytes:
    """The flatbuffer of one signature `name`; inputs and outputs keep the names that they have in the graph.

    Tokens and positions are int32, weights are float32 inputs by the names in `program.weights`. Operations are named
    by the modules that they come from.
    """
    # Importing litert_torch takes seconds and brings jax, which only lowering needs.
    with quiet():
        from autoconvert.lowering.litert_private import convert

        graph = expand(program.graph, program.weights)
        locate(graph.graph)
        inputs = {str(node.target): node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")}
        return convert(name, graph.eval(), inputs)


def expand(graph: fx.GraphModule, weights: Collection[str] = ()) -> fx.GraphModule:
    """A copy of `graph` in which every semantic operation is replaced by ATen operations that the device has."""
    expanded = fx.Graph()
    expanded.output(expanded.graph_copy(graph.graph, {}))
    copy = graph_module(graph, expanded)
    expand_nodes(copy.graph, _device_bodies())
    # Bodies repeat too.
    canonicalize(copy, weights)
    repeated = expand_nodes(copy.graph, {torch.ops.aten.expand.default: repetition.expand})
    return canonicalize(copy, weights) if repeated else copy


def _device_bodies() -> dict[OpOverload, Body]:
    return {
        **ops.BODIES,
        ops.cached_attention: _cached_attention,
        ops.rotary: _rotary,
        ops.expert_linear: expert_linear,
        torch.ops.aten.embedding.default: lookup.embedding,
        torch.ops.aten.topk.default: sorting.topk,
        torch.ops.aten.sort.default: sorting.sort,
        torch.ops.aten.sort.stable: sorting.stable_sort,
        torch.ops.aten.argsort.default: sorting.argsort,
    }


def _cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    mask: Tensor,
    key_axis: int,
    value_axis: int,
    **attributes: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """As ops.cached_attention, with the one operation that becomes DYNAMIC_UPDATE_SLICE."""
    from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice

    start, zero = input_pos[0], torch.zeros((), dtype=torch.int32)
    keys, values = (
        dynamic_update_slice(cache, laid_out(chunk, axis), [start if at == axis else zero for at in range(4)])
        for cache, chunk, axis in ((key_cache, key, key_axis), (value_cache, value, value_axis))
    )
    layout = (key_axis, value_axis)
    attended = attend(query, keys, values, input_pos, mask, *layout, **attributes, times_transposed=_times_transposed)
    return attended, keys, values


def _times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """BATCH_MATMUL reads a transposed operand as it lies; written as `@` it would be copied at every step."""
    product: Tensor = torch.ops.tfl.batch_matmul(a, b, False, True)
    return product


def _rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """As ops.rotary, with the sign moved into the sine, which all layers share, and slices of neighbouring entries."""
    half = x.shape[-1] // 2
    signs = torch.cat((-torch.ones(half), torch.ones(half)))
    if not interleaved:
        return x * cos + torch.cat((x[..., half:], x[..., :half]), dim=-1) * (sin * signs)
    pairs = torch.unflatten(x, -1, (half, 2))
    exchanged = torch.cat((pairs[..., 1:], pairs[..., :1]), dim=-1).flatten(-2)
    return x * cos + exchanged * (sin * signs.view(2, half).t().flatten())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what torch, jax and the converter print from Python and C++ while lowering."""
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with Path(os.devnull).open("wb") as nowhere, warnings.catch_warnings(), redirected_stderr(nowhere):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)
