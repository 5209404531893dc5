"""The pass manager: the form of a pass, and the one loop that runs passes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.analysis.invariants import Invariant
from autoconvert.errors import Refused
from autoconvert.ir.fusion import NearMiss
from autoconvert.ir.program import Program
from autoconvert.ir.target import Target
from autoconvert.ir.verify import Verifier, broken
from autoconvert.rewrite.matching import OnMatch
from autoconvert.rewrite.pattern import Pattern
from autoconvert.rewrite.rule import OnRewrite


@dataclass(frozen=True)
class Options:
    """What passes need to know: the most positions, the patterns, who watches matches and rules, the target."""

    context: int
    patterns: Sequence[Pattern]
    on_match: OnMatch
    target: Target
    on_rewrite: OnRewrite = lambda *_: None


@dataclass(frozen=True)
class Pass:
    """One transformation: `run` gives a program that computes the same and executes in PyTorch.

    `requires` holds before it, by what an earlier pass `ensures`. Only a pass that `changes_ports` may leave inputs,
    outputs and states of other names, dtypes or shapes than it was given; weights are no such inputs.
    """

    name: str
    summary: str
    run: Callable[[Program, Options], Program]
    requires: tuple[Invariant, ...] = ()
    ensures: tuple[Invariant, ...] = ()
    changes_ports: bool = False


def run_names(passes: Sequence[Pass]) -> list[str]:
    """A name for each run of a pass: its own, and from the second run on with a number, as in `canonicalize-2`."""
    counts: Counter[str] = Counter()
    names = []
    for step in passes:
        counts[step.name] += 1
        names.append(run_name(step.name, counts[step.name]))
    return names


def run_name(name: str, count: int) -> str:
    """The name of the run number `count` of the pass `name`."""
    return name if count == 1 else f"{name}-{count}"


def run_passes(
    program: Program,
    options: Options,
    passes: Sequence[Pass],
    after: Callable[[Pass, Program], None] = lambda _, program: None,
) -> Program:
    """Runs `passes` in order, and verifies the program after each; `after` sees it then.

    A pass that stands in `passes` again does not run where the graph is what it left when it ran last.

    Raises:
        BrokenPass: a pass left a program that is not well-formed, or broke what it or one before it ensures.
        Refused: a pass could not prove its rewrite; the hint ends with the nearest pattern that declined.
    """
    verifier = Verifier(program)
    left: dict[str, int] = {}
    for index, (name, step) in enumerate(zip(run_names(passes), passes, strict=True)):
        for invariant in step.requires:
            if wrong := invariant.holds(program):
                raise broken(f"what was before {name}", f"it requires {invariant.name}, and {wrong}")
        if left.get(step.name) != verifier.version:
            try:
                program = step.run(program, options)
            except Refused as refusal:
                raise _with_near_misses(refusal, program, options.patterns) from refusal
            verifier.verify(program, name, changes_ports=step.changes_ports)
            for invariant in _kept(passes, index):
                if wrong := invariant.holds(program):
                    raise broken(name, f"{wrong}, against {invariant.name}")
        left[step.name] = verifier.version
        after(step, program)
    return program


def _kept(passes: Sequence[Pass], index: int) -> list[Invariant]:
    """What holds after the pass at `index`: what it ensures, and what one before it did and the next user requires."""
    held = dict.fromkeys(passes[index].ensures)
    for invariant in dict.fromkeys(invariant for earlier in passes[:index] for invariant in earlier.ensures):
        users = (each for each in passes[index + 1 :] if invariant in (*each.requires, *each.ensures))
        if (user := next(users, None)) is not None and invariant in user.requires:
            held[invariant] = None
    return list(held)


def _with_near_misses(refusal: Refused, program: Program, patterns: Sequence[Pattern]) -> Refused:
    blocks = {pattern.name: pattern.block for pattern in patterns}
    times = binding_times(program)
    pairs = {node.name for node, time in times.items() if time is Time.TOKEN and len(axes(node, program.followed)) > 1}

    def is_near(miss: NearMiss) -> bool:
        """What stands around a value of tokens for every two positions has such values itself, and is an attention."""
        if refusal.at not in pairs:
            return True
        is_known = not miss.is_chance or "attention" in blocks.get(miss.pattern, "")
        return is_known and not pairs.isdisjoint((miss.node, *miss.covered))

    misses = [miss for miss in program.fusion.nearest() if is_near(miss)]
    nearest = "\n".join(f"Nearest: {miss}" for miss in misses[:1])
    hint = "\n".join(filter(None, (refusal.hint, nearest)))
    return type(refusal)(refusal.message, hint=hint, shorter=refusal.shorter, at=refusal.at)
