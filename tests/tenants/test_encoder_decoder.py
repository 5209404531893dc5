"""An encoder, and a decoder that attends to its result: two programs and a third that writes once what both share."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.ir.interface import Port, Role
from autoconvert.ir.model import Model, Signature
from autoconvert.ir.program import LENGTH, Program
from autoconvert.ir.state import Write
from autoconvert.ir.verify import verify
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.outline_fixed_states import outline_fixed_states
from autoconvert.runtime.chunks import Chunk, split
from autoconvert.tracing.module import trace_module
from tests.models import assert_same, random_ids
from tests.tenants.parts import (
    VOCABULARY,
    WIDTH,
    Attention,
    EncoderLayer,
    File,
    initialised,
    linked,
    padded,
    rewritten,
)

SOURCE, CONTEXT = 10, 16
MASK = Port("padding_mask", Role.PADDING_MASK, torch.bool, (1, "source"))
HIDDEN = ("hidden", Role.HIDDEN)
LONGEST = {LENGTH: CONTEXT, "source": SOURCE}


class Translator(nn.Module):
    """One table of words for both sides and for the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.encoder, self.before, self.norm = EncoderLayer(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.to_itself, self.to_source = Attention(), Attention()

    def embedded(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        return x

    def encode(self, tokens: Tensor, padding_mask: Tensor) -> Tensor:
        x: Tensor = self.encoder(self.embedded(tokens), padding_mask[:, None, None])
        return x

    def decode(self, tokens: Tensor, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        x = self.embedded(tokens)
        y = self.before(x)
        x = x + self.to_itself(y, y, causal=True)
        x = x + self.to_source(self.norm(x), hidden, padding_mask[:, None, None])
        return F.linear(x, self.words.weight)


@pytest.fixture(scope="module")
def module() -> Translator:
    translator = initialised(Translator())
    assert isinstance(translator, Translator)
    return translator


@pytest.fixture(scope="module")
def model(module: Translator) -> Model:
    tokens, hidden = Port("tokens", Role.TOKENS, torch.int64, (1, "source")), (1, "source", WIDTH)
    encoder = trace_module(module, [tokens, MASK], [HIDDEN], {"source": SOURCE}, method="encode")
    decoder = trace_module(
        module,
        [Port("tokens", Role.TOKENS, torch.int64, (1, LENGTH)), Port(*HIDDEN, torch.float32, hidden), MASK],
        [("logits", Role.LOGITS)],
        LONGEST,
        method="decode",
        streamed=LENGTH,
    )
    once, steps = outline_fixed_states(rewritten(decoder, CONTEXT), CPU)
    programs = {"encoder": rewritten(encoder, SOURCE), "bridge": once, "decoder": steps}
    source = {"source": SOURCE}
    text = CPU.text_signatures("decoder", (4,))
    signatures = (
        Signature("encode", "encoder", source),
        Signature("attend", "bridge", source),
        *(Signature(each.name, each.program, {**each.sizes, **source}, each.without) for each in text),
    )
    return Model(programs, signatures)


@pytest.fixture(scope="module")
def path(model: Model, module: Translator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked(model, module, tmp_path_factory.mktemp("translator") / "model.tflite")


def fixed(program: Program) -> list[str]:
    return [state.name for state in program.states if state.write is Write.FIXED]


def test_every_program_is_well_formed(model: Model) -> None:
    for name, program in model.programs.items():
        verify(program, name)


def test_keys_and_values_of_the_source_are_states_that_are_written_once(model: Model) -> None:
    decoder = model.programs["decoder"]
    assert [port.role for port in decoder.inputs] == [Role.TOKENS, Role.INPUT_POS, Role.MASK]
    assert fixed(decoder) == [port.name for port in model.programs["bridge"].outputs]
    shapes = {state.shape for state in decoder.states if state.write is Write.FIXED}
    assert (1, 2, "source", WIDTH // 2) in shapes
    grown = [state for state in decoder.states if state.write is Write.APPEND]
    assert [state.capacity for state in grown] == [CONTEXT, CONTEXT]


def test_what_is_written_once_is_computed_in_no_step(model: Model) -> None:
    reached = {source for weight in model.programs["decoder"].weights.values() for source in weight.sources}
    bridge = {source for weight in model.programs["bridge"].weights.values() for source in weight.sources}
    assert bridge == {f"to_source.{part}.{kind}" for part in ("key", "value") for kind in ("weight", "bias")}
    assert not bridge & reached


def test_a_weight_that_programs_share_is_in_the_file_once(path: Path, model: Model) -> None:
    shared = [p for p in model.programs.values() if any("words.weight" in w.sources for w in p.weights.values())]
    assert len(shared) == 2
    distinct = {w.sources: w.shape for w in model.weights.values()}
    numbers = sum(torch.Size(shape).numel() for shape in distinct.values())
    assert 4 * numbers <= path.stat().st_size < 4 * numbers + 4 * VOCABULARY * WIDTH + 60_000


def call(file: File, signature: str, chunk: Chunk, states: dict[str, Tensor]) -> dict[str, Tensor]:
    given = {CPU.port_names[role]: value for role, value in chunk.inputs.items()}
    return file(signature, **given, **states)


@pytest.mark.parametrize("length", [1, 6, SOURCE])
def test_the_file_gives_what_the_module_gives(path: Path, model: Model, module: Translator, length: int) -> None:
    source, text = random_ids(length, VOCABULARY - 1), random_ids(9, VOCABULARY)
    with torch.no_grad():
        seen = torch.ones(1, length, dtype=torch.bool)
        hidden = module.encode(torch.tensor([source]), seen)
        expected = module.decode(torch.tensor([text]), hidden, seen)
    file, (ids, mask) = File(path), padded(source, SOURCE)
    encoded = file("encode", tokens=ids, padding_mask=mask)["hidden"]
    written = file("attend", hidden=encoded, padding_mask=mask)
    decoder = model.programs["decoder"]
    caches = {s.name: torch.zeros([int(n) for n in s.shape]) for s in decoder.states if s.write is Write.APPEND}
    rows = []
    for chunk in split(text, [(4, 4), (2, 4), (1, 1), (1, 1), (1, 1)], CONTEXT):
        name = "prefill_4" if chunk.size > 1 else "decode"
        outputs = call(file, name, chunk, written | caches)
        caches = {state: outputs[state] for state in caches}
        rows += [outputs["logits"][0]] if "logits" in outputs else []
    assert_same(torch.cat(rows), expected[0, -3:])
