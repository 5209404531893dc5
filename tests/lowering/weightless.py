"""A small weightless language model, lowered: what the linker gets, and the checkpoint it gets it with."""

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import fx
from torch.nn import functional as F

from autoconvert.ir.weight import Weight

VOCABULARY, WIDTH, HIDDEN, POSITIONS = 300, 64, 96, 32
LENGTHS = {"prefill_4": 4, "decode": 1}


class TinyModel(torch.nn.Module):
    """Tied embedding, table of positions, norm as a composite, linears with and without bias, a matmul."""

    positions: torch.Tensor

    def __init__(self, name: str, lowering: bool) -> None:
        super().__init__()
        self.name = name
        self.lowering = lowering
        self.register_buffer("positions", torch.linspace(-1, 1, POSITIONS * WIDTH).reshape(POSITIONS, WIDTH))

    def forward(
        self,
        tokens: torch.Tensor,
        input_pos: torch.Tensor,
        embed: torch.Tensor,
        norm: torch.Tensor,
        up: torch.Tensor,
        up_bias: torch.Tensor,
        down: torch.Tensor,
        mix: torch.Tensor,
        head: torch.Tensor,
        unreached: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        hidden = F.embedding(tokens, embed) + F.embedding(input_pos, self.positions)
        wide = F.gelu(F.linear(self.normed(hidden, norm), up, up_bias), approximate="tanh")
        hidden = hidden + F.linear(wide, down)
        hidden = hidden + hidden @ mix
        if self.name != "decode":
            return {"hidden": hidden}
        return {"logits": F.linear(hidden, head), "hidden": hidden}

    def normed(self, hidden: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        if not self.lowering:
            return _rms_norm(hidden, norm)
        from litert_torch.backend.composite import StableHLOCompositeBuilder

        builder = StableHLOCompositeBuilder("odml.rms_norm", attr={"epsilon": 1e-6})
        marked: torch.Tensor = builder.mark_outputs(_rms_norm(*builder.mark_inputs(hidden, norm)))
        return marked


def _rms_norm(hidden: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    return hidden * torch.rsqrt((hidden * hidden).mean(-1, keepdim=True) + 1e-6) * norm


@dataclass
class MemoryStore:
    """A checkpoint in memory; `rows_read` says in how large pieces it was read."""

    tensors: dict[str, torch.Tensor]
    rows_read: list[tuple[str, int, int]] = field(default_factory=list)

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        self.rows_read.append((name, start, stop))
        return self.tensors[name][start:stop]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)


def checkpoint(dtype: torch.dtype = torch.bfloat16) -> MemoryStore:
    """Random tensors as a trained model might have them: rows of different magnitude, one row of zeros."""
    generator = torch.Generator().manual_seed(7)

    def tensor(*shape: int) -> torch.Tensor:
        value = torch.randn(*shape, generator=generator)
        return (value * torch.linspace(0.02, 0.3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))).to(dtype)

    tensors = {
        "model.embed.weight": tensor(VOCABULARY, WIDTH),
        "model.norm.weight": tensor(WIDTH),
        "model.up.weight": tensor(WIDTH, HIDDEN),
        "model.up.bias": tensor(HIDDEN),
        "model.down.weight": tensor(WIDTH, HIDDEN),
        "model.mix.weight": tensor(WIDTH, WIDTH),
        "model.unreached.weight": tensor(WIDTH),
    }
    tensors["model.embed.weight"][17] = 0
    return MemoryStore(tensors)


def _one_plus(weight: torch.Tensor) -> torch.Tensor:
    return 1 + weight


def _transposed(weight: torch.Tensor) -> torch.Tensor:
    return weight.t()


def weights() -> dict[str, Weight]:
    """The weights of TinyModel: `embed` and `head` are one tensor, `norm` and `up` have programs."""
    listed = [
        Weight("embed", (VOCABULARY, WIDTH), ("model.embed.weight",)),
        Weight("norm", (WIDTH,), ("model.norm.weight",), fx.symbolic_trace(_one_plus)),
        Weight("up", (HIDDEN, WIDTH), ("model.up.weight",), fx.symbolic_trace(_transposed)),
        Weight("up_bias", (HIDDEN,), ("model.up.bias",)),
        Weight("down", (WIDTH, HIDDEN), ("model.down.weight",)),
        Weight("mix", (WIDTH, WIDTH), ("model.mix.weight",)),
        Weight("head", (VOCABULARY, WIDTH), ("model.embed.weight",)),
        Weight("unreached", (WIDTH,), ("model.unreached.weight",)),
    ]
    return {weight.name: weight for weight in listed}


@functools.cache
def lowered() -> tuple[bytes, ...]:
    """The weightless flatbuffers of TinyModel, one a signature of LENGTHS; takes seconds, once a process."""
    import litert_torch

    graphs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, length in LENGTHS.items():
            inputs = {
                "tokens": torch.zeros(1, length, dtype=torch.int32),
                "input_pos": torch.zeros(length, dtype=torch.int32),
                **{weight.name: torch.zeros(weight.shape) for weight in weights().values()},
            }
            module = TinyModel(name, lowering=True).eval()
            path = Path(folder) / f"{name}.tflite"
            litert_torch.signature(name, module, sample_kwargs=inputs).convert().export(str(path))
            graphs.append(path.read_bytes())
    return tuple(graphs)


def sample_inputs(signature: str) -> dict[str, np.ndarray]:
    """Tokens (the all-zero row among them) and positions for a signature."""
    length = LENGTHS[signature]
    tokens = np.array([[17, 5, 299, 123][-length:]], np.int32)
    return {"tokens": tokens, "input_pos": np.arange(3, 3 + length, dtype=np.int32)}


def torch_outputs(signature: str, values: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What TinyModel says with weights of these float32 `values`."""
    module = TinyModel(signature, lowering=False).eval()
    inputs = {name: torch.from_numpy(value) for name, value in sample_inputs(signature).items()}
    with torch.no_grad():
        outputs = module(**inputs, **values)
    return {name: value.numpy() for name, value in outputs.items()}


def runtime_outputs(path: Path, signature: str, *, delegate: bool = True) -> dict[str, np.ndarray]:
    """What the file says in the interpreter, with XNNPACK or with the builtin kernels alone."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    runner = interpreter.get_signature_runner(signature)
    return dict(runner(**sample_inputs(signature)))
