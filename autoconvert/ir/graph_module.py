"""Graph modules whose Python code is written when they are called, and not after each change to their graph.

PyTorch makes them for its own compiler and keeps them private. Code that nobody runs is a tenth of tracing and passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

# torch 2.13; the test next to this file's says whether another version still has them.
from torch.fx._lazy_graph_module import _LazyGraphModule, _use_lazy_graph_module


def graph_module(root: nn.Module | dict[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """`fx.GraphModule(root, graph)`, its code not yet written."""
    return _LazyGraphModule(root, graph)


@contextmanager
def code_when_called() -> Iterator[None]:
    """What PyTorch traces in here writes its code as late."""
    with _use_lazy_graph_module(True):
        yield
