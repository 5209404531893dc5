"""Origins: what a node was made from, where its name does not say so."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from autoconvert.dump.entry import GIVEN, Entry
from autoconvert.dump.snapshot import Snapshot
from autoconvert.ir.fusion import FusedBlock
from autoconvert.ir.provenance import BLOCK


def decomposed(before: Snapshot, after: Snapshot) -> tuple[Entry, ...]:
    """The entries after a decomposition, new ones of a block with those of it that are gone."""
    kept, known = ({entry.name for entry in each.entries} for each in (after, before))
    gone: dict[FusedBlock, list[str]] = {}
    for entry, block in _with_blocks(before):
        if block is not None and entry.name not in kept:
            gone.setdefault(block, []).append(entry.name)
    return tuple(
        replace(entry, origins=tuple(gone.get(block, ()))) if block and entry.name not in known else entry
        for entry, block in _with_blocks(after)
    )


def lowered_from(entry: Entry, nodes: Mapping[str, Entry]) -> Entry:
    """The entry of a file's operation with what is known of the node that it was lowered from.

    `nodes` are those of its signature by what the file calls them.
    """
    node = nodes.get(entry.node_name)
    if node is None and entry.results and entry.operation not in GIVEN:
        # A result is called what the signature calls it, whatever node it is.
        node = next((each for each in nodes.values() if set(entry.results) <= set(each.results)), None)
    if node is None:
        return entry
    return replace(
        entry,
        module=node.module,
        place=node.place,
        written=node.written,
        pattern=node.pattern,
        block=node.block,
        origins=(node.name,),
    )


def _with_blocks(snapshot: Snapshot) -> Iterator[tuple[Entry, FusedBlock | None]]:
    blocks = {node.name: node.meta.get(BLOCK) for node in snapshot.program.graph.graph.nodes}
    return ((entry, blocks.get(entry.node_name)) for entry in snapshot.entries)
