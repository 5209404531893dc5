"""GraphML that networkx reads back: every node and operand is there."""

from pathlib import Path

import networkx

from tests.dump.dumped import dump_of
from tests.models import tiny_llama


def test_networkx_reads_every_node_and_operand(tmp_path: Path) -> None:
    dump = dump_of(tiny_llama(num_hidden_layers=1), tmp_path)
    graph = networkx.read_graphml(tmp_path / "05-fuse.graphml", force_multigraph=True)
    nodes = dump.nodes("fuse")
    assert set(graph.nodes) == nodes.keys()
    assert graph.number_of_edges() == sum(len(node["incomingEdges"]) for node in nodes.values())
    linear = graph.nodes["model_layers_0_self_attn_q_proj_linear"]
    assert (linear["operation"], linear["module"]) == ("linear", "model.layers.0.self_attn.q_proj")
    assert networkx.is_directed_acyclic_graph(graph)
