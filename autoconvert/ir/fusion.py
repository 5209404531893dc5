"""Fusion: which blocks were found in a graph, and which patterns came near."""

from dataclasses import dataclass, field

# So many operations in common with a block of another kind are chance.
_CHANCE = 2


@dataclass(frozen=True)
class NearMiss:
    """A pattern that began to match: how many of its operations did, and why the next one did not.

    `node` is where its output would be, `covered` are the nodes that matched, and `differs` is the one that did not:
    names of nodes. `place` says where in the model that is. Both are "" where all matched and the guard declined.
    """

    pattern: str
    node: str
    matched: int
    of: int
    reason: str
    place: str = ""
    differs: str = ""
    covered: tuple[str, ...] = ()

    @property
    def is_begun(self) -> bool:
        """Whether more matched than the last operation, which it is tried for."""
        return self.matched > 1

    @property
    def is_chance(self) -> bool:
        """Whether so few operations matched as any two blocks have in common."""
        return self.matched <= _CHANCE

    @property
    def is_declined(self) -> bool:
        """Whether the guard said no, all operations being there."""
        return self.matched == self.of and not self.place

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        return f"pattern {self.pattern} matched {self.matched} of {self.of} operations: {place}{self.reason}"


@dataclass(frozen=True)
class FusedBlock:
    """A block that was found: `node` stands for the nodes `replaced`, of which `output` was the last.

    All are names of nodes, those that were replaced in the graph before any block was.
    """

    pattern: str
    block: str
    node: str
    output: str
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class Fusion:
    """What was found: matches by pattern and by kind of block, and for values that matched nothing the nearest.

    `found` are the blocks that are still there at the end, in the graph's order.
    """

    patterns: dict[str, int] = field(default_factory=dict)
    blocks: dict[str, int] = field(default_factory=dict)
    near_misses: tuple[NearMiss, ...] = ()
    found: tuple[FusedBlock, ...] = ()

    def nearest(self) -> list[NearMiss]:
        """The near misses that came closest, each pattern and reason once; what a guard declined had all operations."""
        ranked = sorted(self.near_misses, key=lambda miss: (miss.is_declined, miss.matched / miss.of), reverse=True)
        return list({(miss.pattern, miss.matched): miss for miss in reversed(ranked)}.values())[::-1]
