"""GraphML of a graph, for yEd, Gephi, networkx and everything else that reads graphs."""

import io
from collections.abc import Sequence

import networkx

from autoconvert.dump.entry import Entry
from autoconvert.dump.model_explorer import attributes


def graphml(name: str, entries: Sequence[Entry]) -> str:
    """The text of a file that holds the graph called `name`; edges are numbered by the operand that they are."""
    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(name=name)
    for entry in entries:
        graph.add_node(entry.name, operation=entry.operation, module=entry.module, **attributes(entry))
    for entry in entries:
        for operand, (source, output) in enumerate(entry.inputs):
            graph.add_edge(source, entry.name, key=operand, operand=operand, output=output)
    content = io.BytesIO()
    # The other writer depends on whether lxml is installed.
    networkx.write_graphml_xml(graph, content)
    return content.getvalue().decode("utf-8") + "\n"
