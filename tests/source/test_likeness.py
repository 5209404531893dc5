"""Random weights in a model's place: any rows are those of the whole, and the module is as it was."""

from pathlib import Path

import pytest
import torch

from autoconvert.errors import InputError
from autoconvert.source.likeness import WEIGHTS, Look, RandomWeights, likeness_in, write_likeness
from autoconvert.source.source import load_source
from tests.source.tiny import CONFIGS, build, llama


@pytest.mark.parametrize("shape", [(7,), (300, 1000), (3, 50, 70), (200_000,), (1, 100_000)])
def test_rows_are_those_of_the_whole(shape: tuple[int, ...]) -> None:
    weights = RandomWeights({"w": Look(shape, "bfloat16", 1.0, 0.5)})
    whole = weights.read("w")
    assert (tuple(whole.shape), whole.dtype) == (shape, torch.bfloat16)
    middle = shape[0] // 2
    for start, stop in ((0, 1), (middle, middle + 1), (middle // 2, shape[0]), (1, 1)):
        assert torch.equal(weights.read_rows("w", start, stop), whole[start:stop])


def test_numbers_have_the_mean_and_the_spread_and_differ_by_name() -> None:
    weights = RandomWeights({name: Look((1000, 100), "float32", 3.0, 0.2) for name in "ab"})
    a, b = weights.read("a"), weights.read("b")
    assert abs(float(a.mean()) - 3) < 0.01 and abs(float(a.std()) - 0.2) < 0.01 and not torch.equal(a, b)
    assert RandomWeights({"s": Look((), "float32", 2.0, 0.0)}).read("s") == 2


@pytest.mark.parametrize("name", CONFIGS)
def test_the_source_has_the_module_s_tensors_without_their_values(name: str, tmp_path: Path) -> None:
    build(CONFIGS[name]).save_pretrained(tmp_path)
    source = load_source(tmp_path)
    assert write_likeness(source, tmp_path) == ""
    (tmp_path / "model.safetensors").unlink()
    alike = likeness_in(tmp_path, "it")
    for parameter, value in source.module.named_parameters(remove_duplicate=False):
        assert alike.weights.shape(parameter) == tuple(value.shape)
        assert alike.weights.dtype(parameter) == source.weights.dtype(parameter)
    for buffer, constant in source.module.named_buffers():
        assert torch.equal(alike.module.get_buffer(buffer), constant)


def test_what_is_untied_or_changed_in_the_module_is_so_again(tmp_path: Path) -> None:
    module = build(llama(tie_word_embeddings=True))
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach() + 1)
    module.model.rotary_emb.inv_freq.mul_(2)
    source = load_source(module)
    module.config.save_pretrained(tmp_path)
    assert write_likeness(source, tmp_path) == ""
    alike = likeness_in(tmp_path, "it")
    head, embedding = map(alike.module.get_parameter, ("lm_head.weight", "model.embed_tokens.weight"))
    assert head is not embedding
    assert torch.equal(alike.module.get_buffer("model.rotary_emb.inv_freq"), module.model.rotary_emb.inv_freq)


def test_a_module_that_its_configuration_does_not_make_has_no_likeness(tmp_path: Path) -> None:
    module = build(llama())
    module.model.layers[1].mlp.act_fn = torch.nn.Tanh()
    module.config.save_pretrained(tmp_path)
    assert "model.layers.1.mlp.act_fn is not what" in write_likeness(load_source(module), tmp_path)


@pytest.mark.parametrize("content", [None, "", "[]", '{"tensors": {"a": {}}, "untied": []}'])
def test_a_damaged_description_is_bad_input(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / WEIGHTS).write_text(content)
    with pytest.raises(InputError, match=WEIGHTS):
        likeness_in(tmp_path, "it")
