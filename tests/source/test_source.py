"""Where a model may come from, what its module is, and what is said about bad input."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    LlamaConfig,
)

from autoconvert.errors import InputError, Refused
from autoconvert.source.config import build_module
from autoconvert.source.skeleton import build_without_values, is_fake
from autoconvert.source.source import Origin, load_source
from autoconvert.source.streamed import streamed

from .tiny import CONFIGS, build, llama, load

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = torch.tensor([[5, 3, 96, 0, 5, 17]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(llama()).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_have_no_values_and_buffers_are_real(name: str, tmp_path: Path) -> None:
    build(CONFIGS[name]).save_pretrained(tmp_path)
    source, loaded = load_source(tmp_path), load(tmp_path)
    assert type(source.module) is type(loaded)
    assert not any(part.training for part in source.module.modules())
    assert all(is_fake(parameter) for parameter in source.module.parameters())
    assert {parameter.dtype for parameter in source.module.parameters()} == {torch.float32}
    shapes = {key: value.shape for key, value in loaded.named_parameters(remove_duplicate=False)}
    named = source.module.named_parameters(remove_duplicate=False)
    assert {key: value.shape for key, value in named} == shapes
    buffers = dict(source.module.named_buffers())
    assert buffers.keys() == dict(loaded.named_buffers()).keys()
    for key, buffer in loaded.named_buffers():
        assert not is_fake(buffers[key]) and torch.equal(buffers[key], buffer), key


@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
def test_the_module_exports_with_a_symbolic_length(name: str, tmp_path: Path) -> None:
    build(CONFIGS[name]).save_pretrained(tmp_path)
    source, loaded = load_source(tmp_path), load(tmp_path)
    length = torch.export.Dim("s", min=2, max=64)
    shapes = {"input_ids": {1: length}, "use_cache": None}
    inputs = {"input_ids": IDS, "use_cache": False}
    exported = torch.export.export(source.module, (), inputs, dynamic_shapes=shapes, strict=False)
    held = [*exported.graph_signature.parameters, *exported.graph_signature.buffers]
    assert set(held) <= set(source.weights.names())
    values = {key: source.weights.read(key) for key in exported.state_dict}
    constants = {key: value for key, value in exported.constants.items() if isinstance(value, torch.Tensor)}
    graph = exported.module()
    result = torch.func.functional_call(graph, {**values, **constants}, (), inputs, tie_weights=False)
    with torch.no_grad():
        torch.testing.assert_close(result.logits, loaded(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_ties_are_one_parameter() -> None:
    module = build_module(llama(tie_word_embeddings=True))
    assert module.get_parameter(EMBEDDING) is module.get_parameter(HEAD)
    module = build_module(llama())
    assert module.get_parameter(EMBEDDING) is not module.get_parameter(HEAD)


def test_a_tie_that_the_checkpoint_contradicts_is_undone(tmp_path: Path) -> None:
    build(llama(tie_word_embeddings=True)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), HEAD: torch.randn(97, 32)}, path, metadata={"format": "pt"})
    source, loaded = load_source(tmp_path), load(tmp_path)
    assert not torch.equal(source.weights.read(HEAD), source.weights.read(EMBEDDING))
    assert torch.equal(source.weights.read(HEAD), loaded.get_parameter(HEAD))
    assert source.module.get_parameter(EMBEDDING) is not source.module.get_parameter(HEAD)
    with streamed(source) as module, torch.no_grad():
        ours, theirs = module(IDS, use_cache=False).logits, loaded(IDS, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_folder_gives_its_name_config_and_files(folder: Path) -> None:
    source = load_source(folder)
    assert source.name == folder.name
    assert source.folder == folder
    assert isinstance(source.config, LlamaConfig)
    assert source.config._attn_implementation == "sdpa"
    assert load_source(str(folder)).name == folder.name


def test_demo_is_the_folder_that_ships(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import autoconvert.source as package

    monkeypatch.chdir(folder)
    Path("demo").mkdir()
    if not (Path(package.__path__[0]) / "demo" / "config.json").is_file():
        with pytest.raises(InputError, match=r"source/demo/config\.json: missing"):
            load_source("demo")
        return
    source = load_source("demo")
    assert source.name == "demo" and source.origin == Origin("demo", "demo")
    assert source.folder == Path(package.__path__[0]) / "demo"


class OneTie(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared = nn.Parameter(torch.randn(3, 3))
        self.first, self.second = shared, shared
        self.register_buffer("table", torch.arange(3.0))


def test_a_parameter_registered_twice_stays_one() -> None:
    module = build_without_values(OneTie)
    assert module.first is module.second and is_fake(module.first)
    assert torch.equal(module.get_buffer("table"), torch.arange(3.0))


class WritesWeightsIntoBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("copy", torch.zeros(3))
        with torch.no_grad():
            self.get_buffer("copy").copy_(self.weight)


class LooksAtWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.positive = bool(self.weight.sum() > 0)


@pytest.mark.parametrize("kind", [WritesWeightsIntoBuffer, LooksAtWeights])
def test_a_constructor_that_needs_values_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(Refused, match="computes with the values of its weights"):
        build_without_values(kind)
    assert not is_fake(nn.Linear(2, 2).weight)


REMOTE_CODE = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

class RemoteConfig(PreTrainedConfig):
    model_type = "remote-tiny"
    def __init__(self, vocab_size=11, hidden_size=4, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**kwargs)

class RemoteForCausalLM(PreTrainedModel):
    config_class = RemoteConfig
    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("mean", BUFFER, persistent=PERSISTENT)
        self.post_init()
    def _init_weights(self, module):
        pass
    def forward(self, input_ids):
        return self.output(self.embedding(input_ids) * self.scale + self.mean)
"""


def remote(folder: Path, buffer: str = "torch.zeros(4)", persistent: bool = True) -> Path:
    code = REMOTE_CODE.replace("BUFFER", buffer).replace("PERSISTENT", str(persistent))
    (folder / "modeling_remote.py").write_text(code)
    names = {"AutoConfig": "RemoteConfig", "AutoModelForCausalLM": "RemoteForCausalLM"}
    auto_map = {key: f"modeling_remote.{name}" for key, name in names.items()}
    config = {"model_type": "remote-tiny", "auto_map": auto_map, "hidden_size": 4, "vocab_size": 11}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        "embedding.weight": torch.randn(11, 4),
        "output.weight": torch.randn(11, 4),
        "output.bias": torch.randn(11),
        "scale": torch.tensor(3.0, dtype=torch.bfloat16),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def modules_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)


@pytest.mark.usefixtures("modules_cache")
def test_remote_code_runs_only_when_trusted(tmp_path: Path) -> None:
    remote(tmp_path)
    with pytest.raises(InputError, match="'remote-tiny' comes with code of its own") as caught:
        load_source(tmp_path)
    assert "--trust-remote-code" in caught.value.hint
    source = load_source(tmp_path, trust_remote_code=True)
    values = load_file(tmp_path / "model.safetensors")
    with streamed(source) as module:
        hidden = values["embedding.weight"][IDS[0, :2]] * 3
        expected = hidden @ values["output.weight"].T + values["output.bias"]
        torch.testing.assert_close(module(IDS[:, :2])[0], expected)


@pytest.mark.usefixtures("modules_cache")
def test_a_persistent_buffer_takes_the_checkpoints_value(tmp_path: Path) -> None:
    source = load_source(remote(tmp_path), trust_remote_code=True)
    scale = source.module.get_buffer("scale")
    assert scale == 3 and scale.dtype == torch.float32
    assert source.weights.read("scale") == 3 and source.weights.dtype("scale") == torch.bfloat16
    assert torch.equal(source.module.get_buffer("mean"), torch.zeros(4))


@pytest.mark.usefixtures("modules_cache")
def test_a_buffer_made_of_weights_is_refused_unless_saved(tmp_path: Path) -> None:
    remote(tmp_path, buffer="self.embedding.weight.detach().mean(0)", persistent=True)
    with pytest.raises(Refused, match="mean: this buffer is not in the checkpoint"):
        load_source(tmp_path, trust_remote_code=True)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "mean": torch.ones(4)}, path, metadata={"format": "pt"})
    source = load_source(tmp_path, trust_remote_code=True)
    assert torch.equal(source.module.get_buffer("mean"), torch.ones(4))


def test_a_module_in_memory_is_left_as_it_is() -> None:
    live = build(llama(tie_word_embeddings=True), torch.bfloat16).train()
    live.config.name_or_path = "someone/their-model"
    source = load_source(live)
    assert live.training and live.dtype == torch.bfloat16 and live.config.dtype == torch.bfloat16
    assert source.name == "their-model" and source.folder is None
    assert not source.module.training and is_fake(source.module.get_parameter(HEAD))
    assert source.module.get_parameter(EMBEDDING) is source.module.get_parameter(HEAD)
    assert source.weights.dtype(HEAD) == torch.bfloat16
    with streamed(source) as module, torch.no_grad():
        ours = module(IDS, use_cache=False).logits
        theirs = live.float().eval()(IDS, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_plain_module_is_welcome() -> None:
    live = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7), nn.BatchNorm1d(3))
    source = load_source(live)
    assert source.name == "Sequential" and source.config is None and source.folder is None
    assert torch.equal(source.weights.read("1.weight"), live.get_parameter("1.weight"))
    assert torch.equal(source.weights.read_rows("0.weight", 2, 4), live.get_parameter("0.weight")[2:4])
    assert source.weights.read("2.num_batches_tracked") == 0


def test_a_module_without_values_or_quantized_is_an_input_error() -> None:
    with torch.device("meta"), pytest.raises(InputError, match="weight has no values"):
        load_source(nn.Linear(2, 2))
    with pytest.raises(InputError, match="weight has no values"):
        load_source(build_without_values(lambda: nn.Linear(2, 2)))
    quantized = nn.Linear(2, 2)
    quantized.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"weight: dtype torch\.int8 is not supported yet"):
        load_source(quantized)


def test_a_module_that_cannot_be_copied_is_an_input_error() -> None:
    live = nn.Linear(2, 2)
    live.derived = live.weight * 2
    with pytest.raises(InputError, match="Linear: cannot be copied"):
        load_source(live)


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        load_source(folder)


def test_a_path_that_is_no_folder_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    paths: list[str | Path] = [tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere", "~/nowhere"]
    for path in paths:
        with pytest.raises(InputError, match="no such folder"):
            load_source(path)
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(InputError, match="not a GGUF file"):
        load_source(str(file))


def test_a_folder_has_no_revisions(folder: Path) -> None:
    with pytest.raises(InputError, match="no revisions"):
        load_source(folder, revision="main")
