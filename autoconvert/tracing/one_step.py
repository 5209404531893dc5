"""The second way to trace: the model's own path for one token after others, its past as inputs and outputs.

Many texts run side by side as a batch of symbolic size. Nothing mixes a batch, so that a batch of steps may later be
read as the positions of one text, wherever no state flows from one to the next. A model that takes one text at a time
only is traced so: its whole step then is what flows.
"""

import dataclasses
import inspect
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from autoconvert.errors import AutoconvertError, InputError, Inseparable, Refused
from autoconvert.ir.interface import Port, Role, Size
from autoconvert.ir.program import TEXTS, Program
from autoconvert.ir.provenance import location
from autoconvert.ir.state import State, Write
from autoconvert.tracing.exported import export, program_of
from autoconvert.tracing.past import Past, followed
from autoconvert.tracing.settled import refuse_another, refuse_changes
from autoconvert.tracing.trace import POSITION_PARAMETERS
from autoconvert.tracing.untraceable import is_ours, untraceable

_TRACED_STEPS = 19


class OneStep(nn.Module):
    """`tokens` and `positions` int64 [texts, 1], `offset` int64 [], and states give logits and the next states.

    `steps` [steps] is not used; its size is there where there is one text only.
    """

    def __init__(self, decoder: nn.Module, past: Past, *, is_settled: bool = True) -> None:
        super().__init__()
        self.is_settled = is_settled
        self.decoder = decoder
        self.past = past
        accepted = inspect.signature(decoder.forward).parameters
        self._position_parameter = next((name for name in POSITION_PARAMETERS if name in accepted), None)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        offset: Tensor,
        steps: Tensor,
        counters: list[Tensor],
        states: list[Tensor],
    ) -> list[Tensor]:
        # The one size that is a symbol is that of the tokens: what all have one of is as many as these.
        positions, *states = [each.expand(tokens.shape[0], *each.shape[1:]) for each in (positions, *states)]
        options = {self._position_parameter: positions} if self._position_parameter else {}
        # The model writes into its states, which are not its to write.
        own, counts = [state.clone() for state in states], [counter.clone() for counter in counters]
        stepped = self.past.step(self.decoder, tokens, own, counts, offset, options)
        if self.is_settled:
            refuse_changes(stepped.changes)
        return [stepped.logits, *stepped.past.values]


def trace_one_step(decoder: nn.Module, past: Past, slots: int) -> Program:
    """Traces one step of `decoder` for a symbolic number of texts, after at most `slots` − 1 tokens each.

    The program takes `tokens` and `positions` int64 [texts, 1], `offset` int64 [] (how many tokens came before),
    `steps` int64 [steps], the states [texts, …] and the parameters, and returns `logits` float32 [texts, 1, vocabulary]
    and the states. There are as many texts as steps, or one where the decoder takes no more.

    Raises:
        Refused: what the decoder keeps grows, or its step cannot be traced.
    """
    try:
        found = followed(decoder, past, slots)
        *unsettled, past = found.pasts
        step = OneStep(decoder, past)
        together = _export_together(step, slots) if found.takes_together else None
        exported = together or _export(step, slots, alone=True)
        for earlier in unsettled:
            before = _export(OneStep(decoder, earlier, is_settled=False), slots, alone=together is None)
            refuse_another(before, exported, found.changes)
    except (InputError, Refused, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise untraceable("The model's path for a single token cannot be traced", error) from error
    texts: Size = TEXTS if together else 1
    states = tuple(
        State(f"state_{index}", "recurrent", (texts, *shape), Write.REPLACE, dtype=dtype)
        for index, (shape, dtype) in enumerate(past.shapes)
    )
    counters = [Port(f"counter_{i}", Role.STATE, c.dtype, tuple(c.shape)) for i, c in enumerate(past.counters.values())]
    inputs = _inputs(texts)
    outputs = [(Role.LOGITS.value, Role.LOGITS), *((state.name, Role.STATE) for state in states)]
    taken = [*inputs, *counters, *(state.port for state in states)]
    program = program_of(exported, taken, outputs, range(2, slots + 1))
    _drop_counters(program.graph, {port.name for port in counters})
    _as_many_as_tokens(program, states)
    return dataclasses.replace(program, inputs=inputs, outputs=program.outputs[:1], states=states)


def _inputs(texts: Size) -> tuple[Port, ...]:
    """What a step takes of `texts` texts; as many as steps where they run side by side."""
    return (
        Port(Role.TOKENS.value, Role.TOKENS, torch.int64, (texts, 1)),
        Port(Role.POSITIONS.value, Role.POSITIONS, torch.int64, (texts, 1)),
        Port(Role.OFFSET.value, Role.OFFSET, torch.int64, ()),
        Port(Role.STEPS.value, Role.STEPS, torch.int64, (TEXTS,)),
    )


def _export_together(step: OneStep, slots: int) -> ExportedProgram | None:
    """The step of many texts, or None where the model's code takes one at a time."""
    try:
        return _export(step, slots, alone=False)
    except Inseparable:
        return None
    except AutoconvertError:
        raise
    except Exception as error:
        if is_ours(error):
            raise
        return None


def _drop_counters(graph: fx.GraphModule, counters: Collection[str]) -> None:
    """A counter that is read by what the program returns is refused."""
    graph.graph.eliminate_dead_code()
    for node in [node for node in graph.graph.find_nodes(op="placeholder") if node.target in counters]:
        if node.users:
            raise Refused(f"{location(next(iter(node.users)))} computes with a count that belongs to no text.")
        graph.graph.erase_node(node)


def _as_many_as_tokens(program: Program, states: Sequence[State]) -> None:
    """Inputs of one text, which the graph expands to as many as there are tokens, are given for as many."""
    texts = program.input(Role.TOKENS).meta["val"].shape[0]
    names = {Role.POSITIONS.value, *(state.name for state in states)}
    for node in [node for node in program.graph.graph.find_nodes(op="placeholder") if node.target in names]:
        for expanded in list(node.users):
            assert expanded.target is torch.ops.aten.expand.default, expanded
            expanded.replace_all_uses_with(node)
            node.graph.erase_node(expanded)
        with node.meta["val"].fake_mode:
            node.meta["val"] = node.meta["val"].new_empty(texts, *node.meta["val"].shape[1:])
    program.graph.recompile()


def _export(step: OneStep, slots: int, *, alone: bool) -> ExportedProgram:
    length = Dim("s", min=2, max=slots)
    count = min(_TRACED_STEPS, slots - 1)
    tokens = torch.zeros(1 if alone else count, 1, dtype=torch.int64)
    values = [torch.zeros(1, *shape, dtype=dtype) for shape, dtype in step.past.shapes]
    counters = [torch.full(counter.shape, 3, dtype=counter.dtype) for counter in step.past.counters.values()]
    return export(
        step,
        (tokens, tokens[:1] + 3, torch.tensor(3), torch.zeros(count, dtype=torch.int64), counters, values),
        dynamic_shapes=(
            None if alone else {0: length},
            None,
            None,
            {0: length},
            [None] * len(counters),
            [None] * len(values),
        ),
    )
