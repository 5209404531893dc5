"""The streamed module computes what the loaded module computes, reading only what each operation needs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from autoconvert.source import streamed as streamed_module
from autoconvert.source.skeleton import is_fake
from autoconvert.source.source import Source, load_source
from autoconvert.source.streamed import streamed

from .tiny import CONFIGS, Recording, build, llama, load, mixtral

IDS = torch.tensor([[5, 3, 96, 0, 5, 17, 40, 41, 2, 9, 11, 60]])


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every matrix for a large one, and multiply it seven rows at a time."""
    monkeypatch.setattr(streamed_module, "TILE", 7 * 32 * 4)


def saved(module: PreTrainedModel, folder: Path) -> tuple[Source, PreTrainedModel]:
    module.save_pretrained(folder)
    return load_source(folder), load(folder)


def logits(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module(IDS, use_cache=False).logits
    assert type(result) is torch.Tensor
    return result


def recording(source: Source) -> tuple[Source, Recording]:
    weights = Recording(source.weights)
    return replace(source, weights=weights), weights


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_what_the_loaded_module_computes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source, loaded = saved(build(CONFIGS[name], dtype), tmp_path)
    with streamed(source) as module:
        torch.testing.assert_close(logits(module), logits(loaded), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("tiled")
def test_tiles_of_rows_give_the_same(name: str, tmp_path: Path) -> None:
    source, loaded = saved(build(CONFIGS[name]), tmp_path)
    with streamed(source) as module:
        torch.testing.assert_close(logits(module), logits(loaded), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_each_way_of_running_experts_gives_the_same(experts: str, tmp_path: Path) -> None:
    source, loaded = saved(build(mixtral()), tmp_path)
    assert isinstance(source.module, PreTrainedModel)
    source.module.set_experts_implementation(experts)
    with streamed(source) as module:
        torch.testing.assert_close(logits(module), logits(loaded), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
def test_only_the_experts_that_are_chosen_are_read(experts: str, tmp_path: Path) -> None:
    config = mixtral(num_local_experts=16, num_experts_per_tok=1, num_hidden_layers=1)
    source, _ = saved(build(config), tmp_path)
    assert isinstance(source.module, PreTrainedModel)
    source.module.set_experts_implementation(experts)
    source, weights = recording(source)
    with streamed(source) as module, torch.no_grad():
        chosen = module(IDS[:, :3], use_cache=False, output_router_logits=True).router_logits[0].argmax(-1)
    reads = [
        size
        for name, size in zip(weights.read_names, weights.sizes, strict=True)
        if name.endswith("experts.gate_up_proj")
    ]
    assert reads == [2 * 48 * 32] * len(set(chosen.tolist()))


def test_inference_mode_gives_the_same(tmp_path: Path) -> None:
    source, loaded = saved(build(llama()), tmp_path)
    with streamed(source) as module, torch.inference_mode():
        result = module(IDS, use_cache=False).logits
    torch.testing.assert_close(result.clone(), logits(loaded), atol=1e-5, rtol=1e-5)


def test_a_cache_is_no_obstacle(tmp_path: Path) -> None:
    source, loaded = saved(build(llama()), tmp_path)
    with streamed(source) as module, torch.no_grad():
        first = module(IDS[:, :7], use_cache=True)
        second = module(IDS[:, 7:], past_key_values=first.past_key_values)
    whole = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(whole, logits(loaded), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("tiled")
def test_a_tied_embedding_is_never_read_whole(tmp_path: Path) -> None:
    source, weights = recording(saved(build(llama(tie_word_embeddings=True)), tmp_path)[0])
    with streamed(source) as module:
        logits(module)
    sizes = [
        size
        for name, size in zip(weights.read_names, weights.sizes, strict=True)
        if name == "model.embed_tokens.weight"
    ]
    rows_of_the_prompt = len(set(IDS.flatten().tolist()))
    assert sizes[:rows_of_the_prompt] == [32] * rows_of_the_prompt
    assert max(sizes) == 7 * 32
    assert sum(sizes[rows_of_the_prompt:]) == 97 * 32


def test_a_parameter_is_read_once_for_its_one_use(tmp_path: Path) -> None:
    source, weights = recording(saved(build(llama()), tmp_path)[0])
    with streamed(source) as module:
        logits(module)
    matrices = [name for name in weights.read_names if name.endswith("_proj.weight")]
    assert len(matrices) == len(set(matrices)) == 2 * 7


def test_the_module_is_as_before_afterwards(tmp_path: Path) -> None:
    source, _ = saved(build(llama(tie_word_embeddings=True)), tmp_path)
    before = dict(source.module.named_parameters(remove_duplicate=False))
    with pytest.raises(RuntimeError, match="stop"), streamed(source):
        raise RuntimeError("stop")
    after = dict(source.module.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[name] is parameter and is_fake(parameter) for name, parameter in before.items())


class Odd(nn.Module):
    """Uses of parameters that language models have, beyond linear and embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 4))
        self.stack = nn.Parameter(torch.randn(3, 4, 4))
        self.scale = nn.Parameter(torch.randn(4))
        self.gate = nn.Parameter(torch.tensor(0.5))
        self.output = nn.Linear(4, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table[tokens] + self.table[: tokens.shape[1]] + self.table[-1] + self.table[2:9:3].sum(0)
        x = x * (1 + self.scale.float()) @ self.stack[torch.tensor(1)] @ self.stack[-1].T
        x = x + torch.cat([self.scale[:2], self.scale[2:]]) + self.stack.transpose(1, 2).sum((0, 1))
        x = x + self.stack.mT[1][0] + self.stack.permute(0, 2, 1)[1:].sum((0, 1)) + self.stack.permute(2, 0, 1)[0, 0, 0]
        x = torch.addmm(self.scale, x[0], self.output.weight.view(11, 4)[:4], beta=0.5)[None]
        x = x + self.table[self.table[:, 0] > 0].sum(0)
        result: torch.Tensor = self.gate * self.output(x) + x @ self.table.t() + x @ self.table.mT
        return result


@pytest.mark.usefixtures("tiled")
def test_other_uses_of_parameters_give_the_same() -> None:
    torch.manual_seed(0)
    plain = Odd().eval()
    tokens = torch.tensor([[3, 0, 10, 3, 7]])
    with torch.no_grad():
        expected = plain(tokens)
    with streamed(load_source(plain)) as module:
        torch.testing.assert_close(module(tokens), expected, atol=1e-5, rtol=1e-5)
