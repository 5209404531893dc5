"""A decoder whose blocks are written in ways that autoconvert has no pattern for; the guide to patterns converts it.

`python docs/orchard.py orchard` writes it, with random weights and its code, to the folder `orchard`.
"""

import importlib
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class OrchardConfig(PreTrainedConfig):
    model_type = "orchard"

    def __init__(
        self, width: int = 48, heads: int = 4, layers: int = 2, vocab_size: int = 97, **others: object
    ) -> None:
        self.width, self.heads, self.layers, self.vocab_size = width, heads, layers, vocab_size
        self.max_position_embeddings = 64
        super().__init__(**others)


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.gain


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, later: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        rotation = torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2))
        query, key = (
            torch.einsum("bhspj,spij->bhspi", each.unflatten(-1, (-1, 2)), rotation).flatten(-2)
            for each in (query, key)
        )
        scores = torch.einsum("bhkd,bhqd->bhkq", key, query) * query.shape[-1] ** -0.5 + later
        strength = torch.exp(scores - scores.amax(dim=-2, keepdim=True))
        strength = strength / strength.sum(dim=-2, keepdim=True)
        return self.out(torch.einsum("bhkq,bhkd->bqhd", strength, value).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(width, 6 * width, bias=False), nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=-1)
        return self.down(value * F.silu(gate))


class Layer(nn.Module):
    def __init__(self, config: OrchardConfig) -> None:
        super().__init__()
        self.norm, self.attention = Norm(config.width), Attention(config.width, config.heads)
        self.other_norm, self.feed_forward = Norm(config.width), FeedForward(config.width)

    def forward(self, x: Tensor, *where: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), *where)
        return x + self.feed_forward(self.other_norm(x))


class OrchardForCausalLM(PreTrainedModel):
    config_class = OrchardConfig

    def __init__(self, config: OrchardConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm, self.head = Norm(config.width), nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, **_: object) -> CausalLMOutput:
        slots = torch.arange(input_ids.shape[1], device=input_ids.device)
        pairs = self.config.width // self.config.heads // 2
        angles = slots[:, None] * 100.0 ** (-torch.arange(pairs) / pairs)
        # A row for each key: a query does not see the keys after it.
        later = torch.where(slots[:, None] > slots, -torch.inf, 0.0)
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin(), later)
        return CausalLMOutput(logits=self.head(self.norm(x)))


def write(folder: Path) -> None:
    """Saves a random model with its code, as people share models that transformers does not have."""
    torch.manual_seed(0)
    OrchardConfig.register_for_auto_class()
    OrchardForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    model = OrchardForCausalLM(OrchardConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)


if __name__ == "__main__":
    # The code that is saved along belongs to a module with a name of its own.
    sys.path.insert(0, str(Path(__file__).parent))
    importlib.import_module(Path(__file__).stem).write(Path(sys.argv[1]))
