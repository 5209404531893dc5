"""Encoders and decoders as plain modules, and a model of several programs as a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from autoconvert.check.region import RegionCheck
from autoconvert.ir.model import Model
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.link import link
from autoconvert.lowering.litert import lower
from autoconvert.passes.pipeline import PASSES
from autoconvert.passes.specialize_shapes import signature_programs
from autoconvert.patterns import PATTERNS
from autoconvert.quantization.recipes import UNQUANTIZED
from autoconvert.rewrite.pass_manager import Options, run_passes
from tests.models import weights_of

WIDTH, HEADS, VOCABULARY = 16, 2, 43


class Attention(nn.Module):
    """From `x` [1, queries, width] to `source` [1, keys, width]; `mask` bool broadcasts to the scores, True attends."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        query, keys, values = (self.heads(p(y)) for p, y in ((self.query, x), (self.key, source), (self.value, source)))
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal)
        result: Tensor = self.out(attended.transpose(1, 2).reshape(1, -1, WIDTH))
        return result

    def heads(self, x: Tensor) -> Tensor:
        return x.view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention in both directions and a feed-forward, each after a norm and beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_inner = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.inner, self.outer = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.before_attention(x)
        x = x + self.attention(y, y, mask)
        result: Tensor = x + self.outer(F.gelu(self.inner(self.before_inner(x))))
        return result


def initialised(module: nn.Module) -> nn.Module:
    """Random weights of a size that tells tokens apart, the same each time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def rewritten(program: Program, context: int) -> Program:
    """All passes, each rewrite executed and each program verified."""
    return run_passes(program, Options(context, PATTERNS, RegionCheck(), CPU), PASSES)


def linked(model: Model, module: nn.Module, path: Path) -> Path:
    """The model as one file, its weights those of `module`."""
    parts = dict(signature_programs(model, CPU.port_names))
    graphs = [lower(name, part, CPU) for name, part in parts.items()]
    return link(graphs, model.weights, weights_of(module), UNQUANTIZED, path).path


class File:
    """A file's signatures, called with tensors by name."""

    def __init__(self, path: Path) -> None:
        self._interpreter = Interpreter(str(path))

    @property
    def signatures(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._interpreter.get_signature_list()
        return found

    def __call__(self, signature: str, **inputs: Tensor) -> dict[str, Tensor]:
        runner = self._interpreter.get_signature_runner(signature)
        types = {name: details["dtype"] for name, details in runner.get_input_details().items()}
        outputs = runner(**{name: value.numpy().astype(types[name]) for name, value in inputs.items()})
        return {name: torch.from_numpy(np.array(value)) for name, value in outputs.items()}


def padded(tokens: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """Tokens [1, length] with a token of its own behind them, and true where there is none of those."""
    ids = torch.full((1, length), VOCABULARY - 1)
    ids[0, : len(tokens)] = torch.tensor(tokens)
    return ids, torch.arange(length)[None] < len(tokens)
