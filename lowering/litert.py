"""Lowering: a program with a number for every size becomes a small LiteRT flatbuffer that has its weights as inputs."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from autoconvert.ir.program import Program
from autoconvert.ir.target import Target
from autoconvert.lowering.legalize import legalize
from autoconvert.lowering.provenance import locate
from autoconvert.system.stderr import redirected_stderr


def lower(name: str, program: Program, target: Target) -> bytes:
    """The flatbuffer of one signature `name`; inputs and outputs keep the names that they have in the graph.

    Tokens and positions are int32, weights are float32 inputs by the names in `program.weights`. Operations are named
    by the modules that they come from.
    """
    # Importing litert_torch takes seconds and brings jax, which only lowering needs.
    with quiet():
        from autoconvert.lowering.litert_private import convert

        graph = legalize(program.graph, target, program.weights)
        locate(graph.graph)
        inputs = {str(node.target): node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")}
        return convert(name, graph.eval(), inputs)


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
