"""What the patterns made of a model: what they matched, what they declined and why, and what is missing."""

import dataclasses
import linecache
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.check.repeated_entries import repeated_entries
from autoconvert.check.rewrites import RewriteChecks
from autoconvert.diagnose.plain_blocks import PlainBlock, block_at, plain_blocks
from autoconvert.driver.compile import rewrite_within
from autoconvert.driver.settings import Settings
from autoconvert.dump.places import module_of, place_of, relative, without_paths
from autoconvert.errors import Refused
from autoconvert.ir.fusion import NearMiss
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.interface import Role
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import operation_name
from autoconvert.passes.fuse import matchers_of
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.report.folding import folded
from autoconvert.report.readable import readable_repetition
from autoconvert.rewrite.pass_manager import Options, Pass
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.source import Source

# A near miss that is no part of anything that looks like a block is told from this share of its operations on.
_SHARE = 0.5
_AROUND = 2


@dataclass(frozen=True)
class Line:
    """A line of the model's code: `place` as file:line below where Python finds it, and the text."""

    place: str
    text: str


@dataclass(frozen=True)
class Found:
    """Blocks that one pattern matched; `modules` with layers folded, `source` is the pattern's file:line."""

    pattern: str
    block: str
    source: str
    count: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Nearest:
    """The pattern that came nearest: `matched` of its `of` operations, and why it stopped.

    `operation` at `line` is the first that differs; None where all were there and the guard declined.
    """

    pattern: str
    source: str
    matched: int
    of: int
    reason: str
    operation: str | None
    line: Line | None


@dataclass(frozen=True)
class Declined:
    """Blocks of one kind at one line of the model that stay plain operations.

    `nearest` are the pattern that came nearest, and those of parts of the block whose guard declined.
    """

    kind: str
    count: int
    modules: tuple[str, ...]
    line: Line | None
    operations: tuple[str, ...]
    nearest: tuple[Nearest, ...]


@dataclass(frozen=True)
class Unmatched:
    """A pattern from outside that matched nowhere, and how near it came where it came nearest."""

    pattern: str
    source: str
    nearest: Nearest | None


@dataclass(frozen=True)
class Missing:
    """Why a model is refused; `excerpt` is the model's code around, and `block` what stands there, where known."""

    message: str
    hint: str
    operation: str
    module: str
    line: Line | None
    excerpt: tuple[tuple[int, str], ...]
    block: Declined | None


@dataclass(frozen=True)
class Explanation:
    """`missing` is None where the model is covered. `region` is where a pattern would begin, in `program`.

    `costs` are sentences: what is right, and more than it must be.
    """

    model: str
    context: int
    way: str = ""
    found: tuple[Found, ...] = ()
    declined: tuple[Declined, ...] = ()
    unmatched: tuple[Unmatched, ...] = ()
    costs: tuple[str, ...] = ()
    missing: Missing | None = None
    refusal: Refused | None = None
    program: Program | None = None
    region: PlainBlock | None = None


def explanation_of(source: Source, settings: Settings, patterns: Sequence[Pattern] = PATTERNS) -> Explanation:
    """Traces and rewrites the module of `source`, which needs no weight, and says what became of it.

    Raises:
        InputError: a pattern from outside fails on this model.
        CheckFailed: a rewrite gives other numbers than what it replaces, as in a conversion.
    """
    fused: list[_Fused] = []

    before: list[Program] = []

    def watched(step: Pass) -> Pass:
        def run(program: Program, options: Options) -> Program:
            # Passes change the graph in place.
            if step.name == "fuse":
                before.append(_copied(program))
            else:
                fused.append(_Fused(before[-1], _copied(program)))
            return step.run(program, options)

        # What was fused is canonical again where what patterns brought is about to go.
        return dataclasses.replace(step, run=run) if step.name in ("fuse", "decompose") else step

    refusal = None
    costs: tuple[str, ...] = ()
    try:
        program, _ = rewrite_within(source, settings, RewriteChecks(), tuple(map(watched, PASSES)), patterns=patterns)
        costs = tuple(without_paths(readable_repetition(each)) for each in repeated_entries(program))
    except Refused as refused:
        refusal = refused
    programs = _the_one(fused, refusal is not None)
    if programs is None:
        return Explanation(source.name, settings.context, missing=_missing_nowhere(refusal), refusal=refusal)
    return dataclasses.replace(_explained(source.name, settings.context, programs, refusal, patterns), costs=costs)


@dataclass(frozen=True)
class _Fused:
    """The program before blocks were fused, and after."""

    before: Program
    after: Program

    def plain_blocks(self) -> list[PlainBlock]:
        """The blocks that no pattern matched, as the model has them: what grew in part has other operations."""
        replaced = {name for block in self.after.fusion.found for name in block.replaced}
        blocks = plain_blocks(self.before)
        return [block for block in blocks if replaced.isdisjoint(node.name for node in block.nodes)]

    def plain_block_at(self, node: fx.Node, blocks: Sequence[PlainBlock]) -> PlainBlock:
        """The one of `blocks` that `node` of the program after belongs to, or what it stands in."""
        outputs = {each.output.name for each in plain_blocks(self.after) if node in each.nodes}
        found = (b for b in blocks if b.output.name in outputs or node.name in {each.name for each in b.nodes})
        return next(found, None) or block_at(self.after, node)


def _the_one(fused: Sequence[_Fused], is_refused: bool) -> _Fused | None:
    """The program that came through; of those that did not, that of a whole text says more."""
    whole = [programs for programs in fused if not _is_step(programs.after)]
    told = whole if is_refused and whole else fused
    return told[-1] if told else None


def _is_step(program: Program) -> bool:
    return program.find_input(Role.OFFSET) is not None


def _copied(program: Program) -> Program:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(program.graph.graph, copies)
    graph.output(output)
    for node, copy in copies.items():
        copy.name = node.name
    return program.with_graph(graph_module(program.graph, graph))


def _explained(
    model: str, context: int, programs: _Fused, refusal: Refused | None, patterns: Sequence[Pattern]
) -> Explanation:
    program = programs.after
    known = {pattern.name: pattern for pattern in patterns}
    blocks = programs.plain_blocks()
    search = _Search(programs, known)
    at = search.nodes.get(refusal.at) if refusal is not None else None
    wanted = programs.plain_block_at(at, blocks) if at is not None else None
    rest = [block for block in blocks if block is not wanted]
    first = [wanted] if wanted is not None else []
    declined = _folded([search.declined(block) for block in (*first, *rest)])
    # Other layers are refused for the same.
    block = declined.pop(0) if first else None
    missing = _missing(refusal, at, block) if refusal is not None else None
    region = wanted if refusal is not None else next(iter(rest), None)
    return Explanation(
        model=model,
        context=context,
        way="single step" if _is_step(program) else "whole text",
        found=tuple(_found(program, search.nodes, known)),
        declined=(*declined, *_folded(search.near_misses([*first, *rest]))),
        unmatched=tuple(search.unmatched()),
        missing=missing,
        refusal=refusal,
        program=programs.before,
        region=region,
    )


def _found(program: Program, nodes: Mapping[str, fx.Node], known: Mapping[str, Pattern]) -> Iterable[Found]:
    modules: dict[str, list[str]] = {}
    for each in program.fusion.found:
        node = nodes.get(each.node)
        modules.setdefault(each.pattern, []).append(module_of(node) if node is not None else "")
    for name, paths in modules.items():
        pattern = known[name]
        yield Found(name, pattern.block, _source(pattern), len(paths), folded(filter(None, paths)))


class _Search:
    """Which patterns came near to a block: those seen while fusing, and what each says of the block alone."""

    def __init__(self, programs: _Fused, patterns: Mapping[str, Pattern]) -> None:
        self._after = programs.after
        self._patterns = patterns
        self._seen = programs.after.fusion.near_misses
        self._given = {node.name: node for node in programs.before.graph.graph.nodes}
        self._matchers = matchers_of(patterns.values())
        self.nodes = {node.name: node for node in programs.after.graph.graph.nodes}

    def declined(self, block: PlainBlock) -> Declined:
        inside = {node.name for node in block.nodes}

        def nearness(miss: NearMiss) -> tuple[bool, bool, float, bool]:
            """A pattern of the kind that the block looks like tells more than one that has operations in common."""
            is_kind = self._patterns[miss.pattern].block == block.kind
            is_here = miss.is_declined or miss.differs in inside
            return is_kind, is_here, miss.matched / miss.of, miss.node == block.output.name

        near = [
            miss for miss in self._near(block) if not miss.is_chance or block.kind in self._patterns[miss.pattern].block
        ]
        best = sorted(near, key=nearness, reverse=True)[:1]
        parts = [miss for miss in near if miss.is_declined and miss.pattern not in {each.pattern for each in best}]
        return Declined(
            kind=block.kind,
            count=1,
            modules=tuple(filter(None, [_module(block.nodes)])),
            line=_line(block.output),
            operations=tuple(map(_operation, block.nodes)),
            nearest=tuple(map(self._nearest, {miss.pattern: miss for miss in (*best, *parts)}.values())),
        )

    def unmatched(self) -> Iterable[Unmatched]:
        """Patterns from outside that stand nowhere in the model, as it was before any block was fused."""
        built_in = {pattern.name for pattern in PATTERNS}
        matched = self._after.fusion.patterns
        for matcher in self._matchers:
            pattern = matcher.pattern
            if pattern.name in matched or pattern.name in built_in:
                continue
            results = (matcher.match(node) for node in self._given.values() if node.target is matcher.anchor)
            misses = [each for each in results if isinstance(each, NearMiss) and each.matched > 0]
            best = max(misses, key=lambda miss: miss.matched, default=None)
            yield Unmatched(pattern.name, _source(pattern), self._nearest(best) if best is not None else None)

    def near_misses(self, blocks: Iterable[PlainBlock]) -> list[Declined]:
        """What nearly matched elsewhere, and depends on tokens; a part of a block that was fused is no news."""
        inside = {node.name for block in blocks for node in block.nodes}
        times = binding_times(self._after)
        told = []
        for miss in self._seen:
            covered = [self.nodes.get(name) for name in miss.covered]
            near = not miss.is_chance and (miss.is_declined or miss.matched >= _SHARE * miss.of)
            if near and inside.isdisjoint(miss.covered) and all(n is not None and _is_plain(n) for n in covered):
                nodes = [n for n in covered if n is not None]
                if times[self.nodes[miss.node]] is Time.TOKEN:
                    told.append(self._told(miss, nodes))
        return told

    def _told(self, miss: NearMiss, nodes: list[fx.Node]) -> Declined:
        return Declined(
            kind=self._patterns[miss.pattern].block,
            count=1,
            modules=tuple(filter(None, [_module(nodes)])),
            line=_line(self.nodes[miss.node]),
            operations=tuple(map(_operation, nodes)),
            nearest=(self._nearest(miss),),
        )

    def _near(self, block: PlainBlock) -> Iterable[NearMiss]:
        inside = {node.name for node in block.nodes}
        yield from (miss for miss in self._seen if miss.node in inside)
        for matcher in self._matchers:
            for node in block.nodes:
                if node.target is matcher.anchor:
                    result = matcher.match(node)
                    if isinstance(result, NearMiss) and result.matched > 0:
                        yield result

    def _nearest(self, miss: NearMiss) -> Nearest:
        differs = self.nodes.get(miss.differs) or self._given.get(miss.differs)
        pattern = self._patterns[miss.pattern]
        return Nearest(
            pattern=miss.pattern,
            source=_source(pattern),
            matched=miss.matched,
            of=miss.of,
            reason=without_paths(miss.reason),
            operation=None if miss.is_declined else _called(miss, differs),
            line=None if differs is None else _line(differs),
        )


def _called(miss: NearMiss, differs: fx.Node | None) -> str:
    if differs is None:
        return miss.place.partition(" ")[0]
    return str(differs.target) if differs.op == "placeholder" else _operation(differs)


def _operation(node: fx.Node) -> str:
    """What a node computes, without the name of an overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return operation_name(node) if packet is None else str(packet.__name__)


def _is_plain(node: fx.Node) -> bool:
    return getattr(node.target, "namespace", "") == "aten"


def _missing(refusal: Refused, at: fx.Node | None, block: Declined | None) -> Missing:
    place = place_of(at) if at is not None else None
    return Missing(
        message=without_paths(refusal.message),
        hint=without_paths(refusal.hint),
        operation=_operation(at) if at is not None else "",
        module=module_of(at) if at is not None else "",
        line=_line(at) if at is not None else None,
        excerpt=_excerpt(place.file, place.line) if place is not None else (),
        block=block,
    )


def _missing_nowhere(refusal: Refused | None) -> Missing | None:
    return None if refusal is None else _missing(refusal, None, None)


def _excerpt(file: str, line: int) -> tuple[tuple[int, str], ...]:
    numbers = range(max(1, line - _AROUND), line + _AROUND + 1)
    return tuple((number, text.rstrip()) for number in numbers if (text := linecache.getline(file, number)))


def _line(node: fx.Node) -> Line | None:
    place = place_of(node)
    return None if place is None else Line(str(place), linecache.getline(place.file, place.line).strip())


def _module(nodes: Sequence[fx.Node]) -> str:
    """The innermost module that has all of the nodes."""
    paths = [module_of(node).split(".") for node in nodes]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _source(pattern: Pattern) -> str:
    file, _, line = pattern.source.rpartition(":")
    return f"{relative(file)}:{line}"


def _folded(declined: Iterable[Declined]) -> list[Declined]:
    """What is the same in all layers, once."""
    alike: dict[tuple[object, ...], list[Declined]] = {}
    for each in declined:
        nearest = [(near.pattern, near.matched, near.reason) for near in each.nearest]
        alike.setdefault((each.kind, each.line, each.operations, *nearest), []).append(each)
    return [
        dataclasses.replace(
            group[0], count=len(group), modules=folded(module for each in group for module in each.modules)
        )
        for group in alike.values()
    ]
