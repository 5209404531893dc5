"""What is said of a model: what was fused, what was not, and what is missing."""

from collections.abc import Sequence
from io import StringIO
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from autoconvert.diagnose.explained import explained_model
from autoconvert.diagnose.explanation import Declined, Explanation
from autoconvert.diagnose.explanation import explanation_of as explanation_of_source
from autoconvert.diagnose.scaffold import scaffold
from autoconvert.driver.settings import choose
from autoconvert.source.source import load_source
from tests.models import CONTEXT, Decoder, merged, tiny_llama


def explanation_of(module: nn.Module) -> Explanation:
    source = load_source(module)
    settings = choose(
        source.config, context=CONTEXT, prefill=None, quantize="int8", formats=("tflite",), verify="quick"
    )
    return explanation_of_source(source, settings)


def scaffold_of(explanation: Explanation) -> str:
    assert explanation.region is not None and explanation.program is not None
    return scaffold(explanation.region, explanation.program, "here").code


def text_of(explanation: Explanation) -> str:
    console = Console(file=StringIO(), width=40, highlight=False)
    for line in explained_model(explanation, "'./my model'"):
        console.print(line, soft_wrap=True)
    written = console.file
    assert isinstance(written, StringIO)
    return written.getvalue()


def _unit_length(decoder: Decoder, x: Tensor) -> Tensor:
    return x / (x.pow(2).sum(-1, keepdim=True).sqrt() + 1e-5) * decoder.gain


def _squared_gate(decoder: Decoder, x: Tensor) -> Tensor:
    inner = F.linear(x, decoder.square).relu().square() * torch.tanh(F.linear(x, decoder.square.T))
    return F.linear(inner, decoder.square)


def _turned_backwards(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = decoder.heads(x)
    angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1])

    def turned(x: Tensor) -> Tensor:
        first, second = x[..., :2], x[..., 2:]
        back = second * angles.sin() + first * angles.cos(), second * angles.cos() - first * angles.sin()
        return torch.stack(back, -1).transpose(-1, -2).flatten(-2)

    return merged(F.scaled_dot_product_attention(turned(query), turned(key), value, is_causal=True))


def _sigmoid_attention(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = decoder.heads(x)
    slots = torch.arange(x.shape[1])
    # Later positions count a little, so that no cache can do.
    scores = torch.sigmoid(query @ key.transpose(2, 3) * 0.5) * (slots[None] <= slots[:, None]).add(0.1)
    return merged((scores / (scores.sum(-1, keepdim=True) + 1e-6)) @ value)


class TokenByToken(nn.Module):
    """A decoder that reads a text in single steps, so that no text can be traced whole."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        rows = []
        for token in tokens.unbind(1):
            result = self.decoder(token[:, None], past_key_values=past_key_values, use_cache=True)
            past_key_values = result.past_key_values
            rows.append(result.logits)
        result.logits = torch.cat(rows, 1)
        return result


def _only(declined: Sequence[Declined]) -> Declined:
    (each,) = declined
    return each


def test_a_plain_llama_has_layers_folded_and_nothing_declined() -> None:
    explanation = explanation_of(tiny_llama())
    found = {each.pattern: each for each in explanation.found}
    assert {name: each.count for name, each in found.items()} == {
        "rms_norm": 5,
        "rotary.half": 4,
        "attention.shared": 2,
        "gated_feed_forward.silu": 2,
    }
    assert found["gated_feed_forward.silu"].modules == ("model.layers.0–1.mlp",)
    assert found["rms_norm"].modules[-1] == "model.norm"
    assert found["rms_norm"].source.startswith("patterns/norms.py:")
    assert explanation.declined == ()
    assert explanation.missing is None


def test_a_norm_of_another_form_is_told_with_the_nearest_pattern() -> None:
    declined = _only(explanation_of(Decoder(_unit_length)).declined)
    assert declined.kind == "norm"
    assert declined.operations == ("mul", "sum", "sqrt", "add", "div", "mul")
    assert declined.line is not None and "self.mix(self, x)" in declined.line.text
    (nearest,) = declined.nearest
    assert nearest.pattern == "rms_norm"
    assert (nearest.operation, nearest.reason) == ("div", "the pattern expects mul")


def test_a_gated_feed_forward_with_an_unknown_activation_is_told() -> None:
    declined = _only(explanation_of(Decoder(_squared_gate)).declined)
    assert declined.kind == "feed_forward"
    assert declined.operations.count("linear") == 3
    assert declined.nearest[0].pattern.startswith("gated_feed_forward.")


def test_a_rotary_embedding_of_another_order_is_told_once_for_queries_and_keys() -> None:
    declined = _only(explanation_of(Decoder(attend=_turned_backwards)).declined)
    assert (declined.kind, declined.count) == ("rotary", 2)
    assert declined.nearest[0].pattern.startswith("rotary.")


def test_attention_that_is_refused_is_told_as_a_whole() -> None:
    explanation = explanation_of(Decoder(attend=_sigmoid_attention))
    missing = explanation.missing
    assert missing is not None and missing.block is not None and missing.line is not None
    assert missing.block.kind == "attention"
    assert missing.block.operations == ("matmul", "mul", "sigmoid", "mul", "sum", "add", "div", "matmul")
    assert missing.block.nearest[0].reason.startswith("the pattern expects softmax")
    assert "self.attend(self, x)" in dict(missing.excerpt)[int(missing.line.place.rpartition(":")[2])]
    assert explanation.refusal is not None and explanation.refusal.exit_code == 3
    # What is refused is not said to be merely slow.
    assert explanation.declined == ()


def test_attention_that_is_refused_in_a_single_step_is_told_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TokenByToken(tiny_llama(attn_implementation="eager", num_hidden_layers=1))
    monkeypatch.setattr(F, "softmax", lambda x, dim, dtype: torch.sigmoid(x))
    explanation = explanation_of(module)
    assert explanation.way == "single step"
    missing = explanation.missing
    assert missing is not None and missing.block is not None and missing.line is not None
    assert missing.module == "decoder.model.layers.0.self_attn"
    assert missing.block.kind == "attention"
    assert missing.block.operations == ("matmul", "mul", "add", "sigmoid", "matmul")
    assert explanation.declined == ()
    assert "def matches(query: Tensor, key: Tensor, mask: Tensor, value: Tensor" in scaffold_of(explanation)


def test_the_text_is_the_same_twice_and_no_line_is_broken() -> None:
    module = Decoder(_unit_length, _sigmoid_attention)
    text = text_of(explanation_of(module))
    assert text == text_of(explanation_of(module))
    assert "refused" in text.splitlines()[0]
    assert any(line.strip().startswith("nearest     rms_norm (patterns/norms.py:") for line in text.splitlines())
    assert "autoconvert explain './my model' --patterns blocks.py" in text
