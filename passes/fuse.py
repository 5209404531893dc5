"""Fuse: building blocks become semantic operations, wherever a pattern matches."""

import dataclasses
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import fx

from autoconvert import ops
from autoconvert.analysis.invariants import NO_ASSERTIONS, NO_LOOPS, NO_SCORES, NO_TOKEN_SIZES
from autoconvert.ir.editing import finish, inline, replace
from autoconvert.ir.fusion import FusedBlock, Fusion, NearMiss
from autoconvert.ir.nodes import type_key
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import BLOCK, provenance_of
from autoconvert.ops.attention import attention_scores
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.decomposition import decompose_nodes
from autoconvert.rewrite.matching import Match, Matcher, OnMatch
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.rewrite.pattern import Pattern
from autoconvert.rewrite.rule import OnRewrite


def fuse(
    program: Program, patterns: Sequence[Pattern], on_match: OnMatch, on_rewrite: OnRewrite = lambda *_: None
) -> Program:
    """Replaces every match of `patterns`, in their order and again until no more is found.

    `on_match` sees each match before it is replaced, `on_rewrite` each rule that applies in a replacement. What has
    grown only in part is decomposed again.

    Raises:
        InputError: a pattern's own function fails where it matched, or gives its own block again.
    """
    graph = program.graph
    given = {node.name: _Given(node.target, provenance_of(node)) for node in graph.graph.nodes}
    found: Counter[str] = Counter()
    blocks: dict[fx.Node, FusedBlock] = {}
    near_misses: dict[str, NearMiss] = {}
    replacements: dict[str, fx.GraphModule] = {}
    canonical: set[fx.GraphModule] = set()
    makers: dict[fx.Node, frozenset[str]] = {}
    matchers = matchers_of(patterns)
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
                made_by = _makers(result, makers)
                replacement = _replacement(result, replacements)
                on_match(graph, result, replacement)
                if replacement not in canonical:
                    # As the graph is, so that other patterns find in it what they are for.
                    canonical.add(canonicalize(replacement, on_rewrite=on_rewrite))
                # What stands for the block comes from the block, in this pass and after it.
                node.meta["nn_module_stack"] = _stack_of(result, program.weights)
                node.meta[BLOCK] = _fused(result, given)
                last = node.prev
                with graph.graph.inserting_before(node):
                    new = inline(graph.graph, replacement.graph, dict(result.bound), like=node)
                makers.update(dict.fromkeys(_between(last, node), made_by))
                replace(node, new)
                found[result.pattern.name] += 1
                blocks[new] = dataclasses.replace(new.meta[BLOCK], node=new.name)
                matched = True
            if matched:
                graph.graph.eliminate_dead_code()
    _decompose_parts(graph.graph, given)
    alive = set(graph.graph.nodes)
    names = {node.name for node in alive}
    fusion = Fusion(
        patterns=dict(found),
        blocks=dict(Counter(block.block for node, block in blocks.items() if node in alive)),
        near_misses=tuple(miss for miss in near_misses.values() if miss.node in names),
        found=tuple(
            dataclasses.replace(blocks[node], replaced=tuple(n for n in blocks[node].replaced if n not in names))
            for node in graph.graph.nodes
            if node in blocks
        ),
    )
    return dataclasses.replace(program, graph=finish(graph), fusion=fusion)


@dataclasses.dataclass(frozen=True)
class _Given:
    """What a node of the graph was before any block was found."""

    target: Any
    provenance: Mapping[str, Any]


def _decompose_parts(graph: fx.Graph, given: Mapping[str, _Given]) -> None:
    """What only patterns know becomes what it was; a part of a block is none, and nothing has happened to it."""
    scores = graph.find_nodes(op="call_function", target=ops.attention_scores)
    parts = {part for node in scores if (part := node.meta.get(BLOCK)) is not None}
    decompose_nodes(graph, {ops.attention_scores: attention_scores})
    # What something else uses too is still there, and two parts may have shared it.
    taken = {node.name for node in graph.nodes}
    for node in graph.nodes:
        if (part := node.meta.get(BLOCK)) not in parts:
            continue
        del node.meta[BLOCK]
        names = (name for name in part.replaced if name not in taken and given[name].target is node.target)
        if (name := next(names, None)) is not None:
            taken.add(name)
            node.name = name
            node.meta |= given[name].provenance


def matchers_of(patterns: Iterable[Pattern]) -> list[Matcher]:
    return [Matcher(pattern, canonicalize(pattern.graph).graph) for pattern in patterns]


def tries(graph: fx.Graph, patterns: Iterable[Pattern]) -> Iterator[NearMiss]:
    """How far each of `patterns` gets at each node that computes its last operation; what matches is left out."""
    for matcher in matchers_of(patterns):
        for node in graph.find_nodes(op="call_function", target=matcher.anchor):
            if isinstance(result := matcher.match(node), NearMiss):
                yield result


def _makers(match: Match, makers: Mapping[fx.Node, frozenset[str]]) -> frozenset[str]:
    """The patterns that made all of a block, and the one that replaces it.

    Raises:
        InputError: this one did. It would make the block again, and so for ever.
    """
    made_by = frozenset.intersection(*(makers.get(node, frozenset()) for node in match.region))
    name = match.pattern.name
    if name in made_by:
        raise match.pattern.endless(made_by - {name})
    return made_by | {name}


def _between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    while (first := first.next) is not last:
        yield first


def _fused(match: Match, given: Container[str]) -> FusedBlock:
    """What `match` replaces; a block that was found before and is part of it, by what that had replaced."""
    replaced: list[str] = []
    for node in match.region:
        inner = node.meta.get(BLOCK)
        replaced.extend([node.name] if inner is None else inner.replaced)
    pattern, names = match.pattern, tuple(name for name in dict.fromkeys(replaced) if name in given)
    return FusedBlock(pattern.name, pattern.block, "", match.output.name, names)


def _stack_of(match: Match, weights: Container[str]) -> dict[str, Any]:
    """The module that has all of the block's weights: a feed-forward is not its last projection."""
    readers = [node for node in match.region if any(_is_weight(n, weights) for n in node.all_input_nodes)]
    stacks = [dict(node.meta.get("nn_module_stack") or {}) for node in (match.output, *readers)]
    shared = takewhile(lambda key: all(key in stack for stack in stacks), stacks[0])
    return {key: stacks[0][key] for key in shared}


def _is_weight(node: fx.Node, weights: Container[str]) -> bool:
    while len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return node.op == "placeholder" and str(node.target) in weights


def _replacement(match: Match, known: dict[str, fx.GraphModule]) -> fx.GraphModule:
    """What the pattern becomes at these shapes, traced once for all matches that look the same."""
    values = {name: node.meta["val"] for name, node in match.bound.items()}
    key = f"{match.pattern.name} {match.scalars} {[type_key(value) for value in values.values()]}"
    if key not in known:
        known[key] = match.pattern.replacement(values, match.scalars)
    return known[key]


def _keep_nearest(near_misses: dict[str, NearMiss], miss: NearMiss) -> None:
    """The share that matched decides between patterns."""
    if not miss.is_begun:
        return
    known = near_misses.get(miss.node)
    if known is None or miss.matched / miss.of > known.matched / known.of:
        near_misses[miss.node] = miss


PASS = Pass(
    "fuse",
    "Building blocks become semantic operations, wherever a pattern matches.",
    lambda program, options: fuse(program, options.patterns, options.on_match, options.on_rewrite),
    requires=(NO_ASSERTIONS, NO_LOOPS, NO_TOKEN_SIZES),
    ensures=(NO_SCORES,),
)
