"""Names that last: a node keeps its name from pass to pass for as long as it is the same node."""

from torch import fx

from autoconvert.dump.entry import identifier
from autoconvert.dump.places import module_of
from autoconvert.ir.provenance import short_name


def operation_of(node: fx.Node) -> str:
    """What a node computes, in one word: `linear`, `rms_norm`, `getitem`; `input`, `constant`, `output`."""
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return "constant"
    if node.op in ("output", "call_module"):
        return node.op.removeprefix("call_")
    if isinstance(node.target, str):
        return node.target
    return short_name(node).rstrip("_") or "call"


class Namer:
    """Gives each node a name of its module and operation, `model_layers_0_mlp_linear`: an identifier.

    A node of the same name in the graph, operation and module has the name that it had before; another gets one
    that none had. Inputs are named as the program names them.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str, str]] = {}
        self._taken: set[str] = set()

    def __call__(self, graph: fx.Graph) -> dict[fx.Node, str]:
        return {node: self._name(node) for node in graph.nodes}

    def _name(self, node: fx.Node) -> str:
        operation, module = operation_of(node), module_of(node)
        if node.op == "placeholder":
            operation, module = str(node.target), ""
        known = self._known.get(node.name)
        if known is not None and known[:2] == (operation, module):
            return known[2]
        base = identifier(f"{module}_{operation}" if module else operation)
        name, number = base, 1
        while name in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name)
        self._known[node.name] = (operation, module, name)
        return name
