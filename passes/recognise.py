"""Recognise: building blocks become semantic operations, wherever a pattern matches."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from autoconvert.matching import Match, Matcher, NearMiss
from autoconvert.passes.normalise import normalise
from autoconvert.pattern import Pattern
from autoconvert.program import Program
from autoconvert.rewriting import finish, inline, replace, structure, traced

OnMatch = Callable[[fx.GraphModule, Match], None]


@dataclass
class Recognition:
    """What was found: matches by pattern, and for values that matched nothing the nearest pattern."""

    found: Counter[str] = field(default_factory=Counter)
    blocks: Counter[str] = field(default_factory=Counter)
    near_misses: dict[fx.Node, NearMiss] = field(default_factory=dict)


def recognise(program: Program, patterns: Sequence[Pattern], on_match: OnMatch) -> tuple[Program, Recognition]:
    """Replaces every match of `patterns`, in their order; `on_match` sees each before it is replaced."""
    graph = program.graph
    recognition = Recognition()
    replacements: dict[str, fx.Graph] = {}
    for pattern in patterns:
        matcher = Matcher(pattern, normalise(pattern.graph).graph)
        for node in graph.graph.find_nodes(op="call_function", target=matcher.anchor):
            result = matcher.match(node)
            if isinstance(result, NearMiss):
                _keep_nearest(recognition, result)
                continue
            on_match(graph, result)
            _rewrite(graph.graph, result, replacements)
            recognition.found[pattern.name] += 1
            recognition.blocks[pattern.block] += 1
        graph.graph.eliminate_dead_code()
    alive = set(graph.graph.nodes)
    recognition.near_misses = {n: miss for n, miss in recognition.near_misses.items() if n in alive}
    return program.with_graph(finish(graph)), recognition


def _rewrite(graph: fx.Graph, match: Match, replacements: dict[str, fx.Graph]) -> None:
    values = {name: node.meta["val"] for name, node in match.bound.items()}
    key = f"{match.pattern.name} {match.scalars} {[structure(value) for value in values.values()]}"
    if key not in replacements:
        replacements[key] = traced(lambda **tensors: match.pattern.becomes(**tensors, **match.scalars), values).graph
    with graph.inserting_before(match.output):
        replace(match.output, inline(graph, replacements[key], dict(match.bound), like=match.output))


def _keep_nearest(recognition: Recognition, miss: NearMiss) -> None:
    """Two operations in common are chance; the share that matched decides between patterns."""
    if miss.matched < 2:
        return
    known = recognition.near_misses.get(miss.output)
    if known is None or miss.matched / miss.of > known.matched / known.of:
        recognition.near_misses[miss.output] = miss


