"""The second way to trace: the model's own path for one token after others, its past as inputs and outputs.

Many texts run side by side as a batch of symbolic size. Nothing mixes a batch, so that a batch of steps may later be
read as the positions of one text, wherever no state flows from one to the next.
"""

import inspect

import torch
from torch import Tensor, nn
from torch.export import Dim

from autoconvert.errors import InputError, Refused
from autoconvert.exported import export, program_of
from autoconvert.past import Past, past_of
from autoconvert.program import Program, State
from autoconvert.trace import POSITION_PARAMETERS, untraceable

OFFSET = "offset"

_TRACED_BATCH = 19


class OneStep(nn.Module):
    """`tokens` and `positions` int64 [steps, 1], `offset` int64 [], and states give logits and the next states."""

    def __init__(self, decoder: nn.Module, past: Past) -> None:
        super().__init__()
        self.decoder = decoder
        self._past = past
        accepted = inspect.signature(decoder.forward).parameters
        self._position_parameter = next((name for name in POSITION_PARAMETERS if name in accepted), None)

    def forward(self, tokens: Tensor, positions: Tensor, offset: Tensor, states: list[Tensor]) -> list[Tensor]:
        options = {self._position_parameter: positions} if self._position_parameter else {}
        # The model writes into its states, which are not its to write.
        own = [state.clone() for state in states]
        logits, after = self._past.step(self.decoder, tokens, own, offset, options)
        return [logits, *after]


def trace_one_step(decoder: nn.Module, slots: int) -> Program:
    """Traces one step of `decoder` for a symbolic number of texts, after at most `slots` − 1 tokens each.

    The program takes `tokens` and `positions` int64 [steps, 1], `offset` int64 [] (how many tokens came before), the
    states [steps, …] and the parameters, and returns `logits` float32 [steps, 1, vocabulary] and the states.

    Raises:
        Refused: the decoder has no such path, or it cannot be traced.
    """
    batch = Dim("s", min=2, max=slots)
    example = min(_TRACED_BATCH, slots - 1)
    tokens = torch.zeros(example, 1, dtype=torch.int64)
    try:
        past = past_of(decoder.eval(), slots)
        values = [torch.zeros(example, *shape, dtype=dtype) for shape, dtype in past.shapes]
        exported = export(
            OneStep(decoder, past),
            (tokens, tokens + 3, torch.tensor(3), values),
            dynamic_shapes=({0: batch}, {0: batch}, None, [{0: batch} for _ in values]),
        )
    except (InputError, Refused, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise untraceable("The model's path for a single token cannot be traced", error) from error
    states = tuple(
        State(f"state_{index}", shape, "recurrent", None, dtype) for index, (shape, dtype) in enumerate(past.shapes)
    )
    program = program_of(exported, ["logits", *(state.name for state in states)], range(2, slots + 1))
    inputs = [node for node in program.graph.graph.find_nodes(op="placeholder") if not node.meta.get("is_weight")]
    for node, state in zip(inputs[3:], states, strict=True):
        node.target = state.name
    program.graph.recompile()
    return Program(program.graph, program.weights, states)
