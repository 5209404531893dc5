"""Recognise: building blocks become semantic operations, wherever a pattern matches."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from torch import fx

from autoconvert import ops
from autoconvert.expansion import expand_nodes
from autoconvert.matching import Match, Matcher
from autoconvert.ops.attention import attention_scores
from autoconvert.passes.normalise import normalise
from autoconvert.pattern import Pattern
from autoconvert.program import NearMiss, Program, Recognition
from autoconvert.rewriting import inline, replace, structure

# Sees the graph, the match, and the replacement, whose placeholders are the pattern's parameters.
OnMatch = Callable[[fx.GraphModule, Match, fx.GraphModule], None]


def recognise(program: Program, patterns: Sequence[Pattern], on_match: OnMatch) -> Program:
    """Replaces every match of `patterns`, in their order and again until no more is found.

    `on_match` sees each match before it is replaced. What has grown only in part is written out again.

    Raises:
        InputError: a pattern's own function fails where it matched.
    """
    graph = program.graph
    found: Counter[str] = Counter()
    blocks: dict[fx.Node, str] = {}
    near_misses: dict[str, NearMiss] = {}
    replacements: dict[str, fx.GraphModule] = {}
    matchers = [Matcher(pattern, normalise(pattern.graph).graph) for pattern in patterns]
    before = -1
    while before < found.total():
        before = found.total()
        for matcher in matchers:
            matched = False
            for node in graph.graph.find_nodes(op="call_function", target=matcher.anchor):
                result = matcher.match(node)
                if isinstance(result, NearMiss):
                    _keep_nearest(near_misses, result)
                    continue
                replacement = _replacement(result, replacements)
                on_match(graph, result, replacement)
                with graph.graph.inserting_before(node):
                    new = inline(graph.graph, replacement.graph, dict(result.bound), like=node)
                replace(node, new)
                found[result.pattern.name] += 1
                blocks[new] = result.pattern.block
                matched = True
            if matched:
                graph.graph.eliminate_dead_code()
    # What only patterns know.
    expand_nodes(graph.graph, {ops.attention_scores: attention_scores})
    alive = set(graph.graph.nodes)
    names = {node.name for node in alive}
    recognition = Recognition(
        patterns=dict(found),
        blocks=dict(Counter(block for node, block in blocks.items() if node in alive)),
        near_misses=tuple(miss for miss in near_misses.values() if miss.node in names),
    )
    # What replacements compute beside their operation, as tables of another width, is the same for every layer.
    return dataclasses.replace(program, graph=normalise(graph), recognition=recognition)


def _replacement(match: Match, known: dict[str, fx.GraphModule]) -> fx.GraphModule:
    """What the pattern becomes at these shapes, traced once for all matches that look the same."""
    values = {name: node.meta["val"] for name, node in match.bound.items()}
    key = f"{match.pattern.name} {match.scalars} {[structure(value) for value in values.values()]}"
    if key not in known:
        known[key] = match.pattern.replacement(values, match.scalars)
    return known[key]


def _keep_nearest(near_misses: dict[str, NearMiss], miss: NearMiss) -> None:
    """Two operations in common are chance; the share that matched decides between patterns."""
    if miss.matched < 2:
        return
    known = near_misses.get(miss.node)
    if known is None or miss.matched / miss.of > known.matched / known.of:
        near_misses[miss.node] = miss
