"""Small decoders in several styles, and ways to run a program as the source runs."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autoconvert.check.graph import run_chunks
from autoconvert.check.region import RegionCheck
from autoconvert.driver.trace_and_rewrite import rewrite as whole_or_step
from autoconvert.ir.interface import Role
from autoconvert.ir.model import Model
from autoconvert.ir.nodes import shape
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.ops.attention import CLOSED
from autoconvert.passes.specialize_shapes import signature_programs
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, Pass
from autoconvert.rewrite.pattern import Pattern
from autoconvert.runtime.chunks import split
from autoconvert.source.weights import TensorWeights
from autoconvert.tracing.trace import logits_of, trace
from tests.source.tiny import build, llama

CONTEXT = 32
LENGTH = 19
WIDTH = 8
HEADS = 2
VOCABULARY = 31

# (tokens, slots): padding, single tokens, a full chunk over what padding left.
CHUNKS = ((7, 9), (1, 1), (4, 4), (1, 1), (6, 8))

Change = Callable[["Decoder", Tensor], Tensor]


def noisy(module: nn.Module) -> nn.Module:
    """Noise on every weight, so that norms are not trivially one and biases not zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def tiny_llama(**overrides: object) -> nn.Module:
    return noisy(build(llama(**overrides)))


class Decoder(nn.Module):
    """Embedding, one attention with a residual, `mix`, head: `mix` and `attend` are what a test is about."""

    def __init__(self, mix: Change = lambda _, x: x, attend: Change | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.square = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.rows = nn.Parameter(torch.randn(2 * CONTEXT, WIDTH))
        self.gain, self.offset = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.mix, self.attend = mix, attend or causal
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attend(self, x)
        logits: Tensor = self.head(self.mix(self, x))
        return logits

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            project(x).view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        return query, key, value


def merged(x: Tensor) -> Tensor:
    """[1, heads, s, width] as [1, s, heads · width]."""
    return x.transpose(1, 2).reshape(1, -1, WIDTH)


def causal(decoder: Decoder, x: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(*decoder.heads(x), is_causal=True))


def masked(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Change:
    """Decomposed attention, in which `change(scores, rows, columns)` masks the scores [1, heads, s, s]."""

    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        query, key, value = decoder.heads(x)
        slots = torch.arange(x.shape[1])
        scores = torch.matmul(query, key.transpose(2, 3)) / (WIDTH // HEADS) ** 0.5
        scores = change(scores, slots[:, None], slots[None])
        return merged(torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(x.dtype), value))

    return attend


def traced(module: nn.Module, context: int = CONTEXT) -> Program:
    return trace(module, context)


def rewrite(
    module: nn.Module,
    context: int = CONTEXT,
    patterns: Sequence[Pattern] = PATTERNS,
    after: Callable[[Pass, Program], None] = lambda _, program: None,
) -> Program:
    """All passes, each rewrite checked where it happens."""
    return whole_or_step(module, Options(context, patterns, RegionCheck(), CPU), after=after)


def context_of(program: Program) -> int:
    """The most positions of a program that keeps caches, which its mask has columns for."""
    return int(shape(program.input(Role.MASK))[-1])


def signatures(program: Program, lengths: Sequence[int]) -> dict[str, Program]:
    """The program in chunks of `lengths` and for one token, by the signatures' names."""
    return dict(
        signature_programs(Model({"decoder": program}, CPU.text_signatures("decoder", lengths)), CPU.port_names)
    )


def random_ids(count: int = LENGTH, vocabulary: int = VOCABULARY) -> list[int]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, vocabulary, (count,), generator=generator).tolist()


def weights_of(module: nn.Module) -> TensorWeights:
    return TensorWeights(module.state_dict())


def execute(program: Program, module: nn.Module, tokens: Sequence[int]) -> dict[str, Tensor]:
    """What the graph returns for one run from position 0, after whichever pass."""
    count, weights = len(tokens), weights_of(module)
    inputs = {name: weight.evaluate(weights.read) for name, weight in program.weights.items()}
    inputs |= {name: torch.zeros(tuple(node.meta["val"].shape)) for name, node in program.state_nodes().items()}
    by_role = {Role.TOKENS: torch.tensor([tokens]), Role.POSITIONS: torch.arange(count)[None]}
    by_role |= {Role.INPUT_POS: torch.arange(count, dtype=torch.int32)}
    if program.find_input(Role.MASK) is not None:
        by_role |= {Role.MASK: torch.full((1, 1, count, context_of(program)), CLOSED).triu(1)}
    inputs |= {port.name: by_role[port.role] for port in program.inputs}
    names = [str(node.target) for node in program.graph.graph.find_nodes(op="placeholder")]
    with torch.no_grad():
        results: dict[str, Tensor] = program.graph(*(inputs[name] for name in names))
    return results


def logits_in_chunks(
    program: Program, module: nn.Module, tokens: Sequence[int], sizes: Sequence[tuple[int, int]] = CHUNKS
) -> Tensor:
    """[tokens, vocabulary], the states handed from chunk to chunk as the runtime does."""
    chunks = split(tokens, sizes, context_of(program))
    outputs = run_chunks(program, weights_of(module), chunks, program.result(Role.LOGITS))
    return torch.cat([out[0, : part.real] for out, part in zip(outputs, chunks, strict=True)])


def logits_of_source(module: nn.Module, tokens: Sequence[int]) -> Tensor:
    with torch.no_grad():
        output = module(torch.tensor([tokens]))
    return logits_of(output)[0]


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance` of the expected numbers' spread."""
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.std()) < tolerance


def assert_chunks_give_what_the_model_gives(program: Program, module: nn.Module, vocabulary: int = VOCABULARY) -> None:
    tokens = random_ids(LENGTH, vocabulary)
    assert_same(logits_in_chunks(program, module, tokens), logits_of_source(module, tokens))


def shapes(graph: fx.GraphModule) -> dict[str, list[str]]:
    """Sizes of each operation's last result, the symbolic one as `s`, by the operation's name."""
    return {
        str(node.target).split(".")[-2]: [
            "s" if isinstance(n, torch.SymInt) else str(n) for n in node.meta["val"].shape
        ]
        for node in graph.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
    }
