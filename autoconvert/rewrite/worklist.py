"""The greedy rewrite driver: rules are applied to the nodes of a graph until none applies any more.

A node is visited in the graph's order, and again when an operand of it was replaced; so are the nodes that a rule made.
As MLIR's (https://mlir.llvm.org/docs/PatternRewriter/).
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from torch import fx

from autoconvert.ir import editing
from autoconvert.ir.provenance import location
from autoconvert.rewrite.rule import OnRewrite, Rewriter, Rule, RuleTable

# So often may one node of the given graph be rewritten, with all that it becomes. Spellings take less than ten, a
# write into a concatenation one for each of its parts.
_REWRITES = 1000


class Worklist:
    """The nodes of `graph` that are to be visited. `prepare` sees each node once, before any rule does."""

    def __init__(
        self,
        graph: fx.Graph,
        table: RuleTable,
        weights: Collection[str] = (),
        on_rewrite: OnRewrite = lambda *_: None,
        prepare: Callable[[fx.Node], None] = lambda _: None,
        counted: Collection[str] = (),
    ) -> None:
        self._graph = graph
        self._table = table
        self._rewriter = Rewriter(weights, counted, self._replace_other)
        self._on_rewrite = on_rewrite
        self._prepare = prepare
        self._queue: list[fx.Node] = []
        self._waiting: set[fx.Node] = set()
        self._prepared: set[fx.Node] = set()
        self._applied: Rule | None = None
        # The node of the given graph that each node was made for, and how often a rule applied to what was made for it.
        self._origins: dict[fx.Node, fx.Node] = {}
        self._rewrites: Counter[fx.Node] = Counter()

    def add(self, nodes: Iterable[fx.Node]) -> None:
        """Nodes to be visited."""
        for node in nodes:
            if node.op == "call_function" and node not in self._waiting:
                self._waiting.add(node)
                heapq.heappush(self._queue, node)

    def replace(self, node: fx.Node, new: fx.Node) -> None:
        """Every use of `node` becomes a use of `new`, and is visited again; `node` goes."""
        self.add(node.users)
        self._waiting.discard(node)
        editing.replace(node, new)

    def run(self) -> bool:
        """Visits what waits, and what this changes; whether there was anything."""
        was_waiting = bool(self._waiting)
        while self._queue:
            node = heapq.heappop(self._queue)
            if node in self._waiting:
                self._waiting.remove(node)
                self._visit(node)
        return was_waiting

    def _visit(self, node: fx.Node) -> None:
        if node not in self._prepared:
            self._prepared.add(node)
            self._prepare(node)
        for rule in self._table[node.target]:  # type: ignore[index]
            if rule.rounds and self._rewriter.is_counted(node):
                continue
            self._applied, before = rule, node.prev
            with self._graph.inserting_before(node):
                new = rule.rewrite(node, self._rewriter)
            made = list(_between(before, node))
            if new is not None:
                self._count(rule, node, made)
                self._on_rewrite(rule, node, new)
                self.add(made)
                self.replace(node, new)
                return
            for helper in reversed(made):
                self._graph.erase_node(helper)

    def _replace_other(self, node: fx.Node, new: fx.Node) -> None:
        """For the rule that is being applied: another node than its own."""
        assert self._applied is not None
        self._on_rewrite(self._applied, node, new)
        self.replace(node, new)

    def _count(self, rule: Rule, node: fx.Node, made: list[fx.Node]) -> None:
        """That of rules of which one undoes another there is no end is found where it happens."""
        origin = self._origins.get(node, node)
        self._origins.update(dict.fromkeys(made, origin))
        self._rewrites[origin] += 1
        if self._rewrites[origin] > _REWRITES:
            raise RuntimeError(
                f"Rewriting does not end: rule {rule.name} applies to {node.name} after {_REWRITES} rules had "
                f"been applied to what {origin.name} became ({location(node)})."
            )


def _between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    """The nodes after `first` and before `last`, in order."""
    node = first.next
    while node is not last:
        yield node
        node = node.next
