"""Lowering: a program with a number for every size becomes a small LiteRT flatbuffer that has its weights as inputs."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from torch import fx

from autoconvert.errors import Refused
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.ir.target import Target
from autoconvert.lowering.legalize import legalize
from autoconvert.lowering.product_shapes import products_as_declared
from autoconvert.lowering.provenance import locate
from autoconvert.system.stderr import redirected_stderr
from autoconvert.tracing.untraceable import is_ours


def lower(name: str, program: Program, target: Target) -> bytes:
    """The flatbuffer of one signature `name`; inputs and outputs keep the names that they have in the graph.

    Tokens and positions are int32, weights are float32 inputs by the names in `program.weights`. Operations are named
    by the modules that they come from.

    Raises:
        Refused: the converter has no form for an operation.
    """
    # Importing litert_torch takes seconds and brings jax, which only lowering needs.
    with quiet():
        from autoconvert.lowering.litert_private import convert

        graph = legalize(program.graph, target, program.weights)
        locate(graph.graph)
        inputs = {str(node.target): node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")}
        try:
            return products_as_declared(convert(name, graph.eval(), inputs))
        except Exception as error:
            if is_ours(error):
                raise
            raise _refused(graph, error) from error


def _refused(graph: fx.GraphModule, error: Exception) -> Refused:
    """The refusal of a graph that the converter raised `error` for, with the node that it names, if it names one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = (node for node in graph.graph.nodes if node.op == "call_function" and str(node.target) in str(error))
    node = next(named, None)
    place = "" if node is None else f"{location(node)}: "
    return Refused(
        f"{place}the device's converter has no form for it: {lines[0] if lines else type(error).__name__}",
        hint="A target's body that computes the same by other operations would lower it (lowering/bodies).",
        at="" if node is None else node.name,
    )


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
