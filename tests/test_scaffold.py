"""The beginning of a pattern file: found where it was taken from, and once it is finished the model is covered."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.library import load_file
from autoconvert.patterns import PATTERNS
from autoconvert.scaffold import write_scaffold
from tests.models import Change, Decoder, causal, merged, rewrite
from tests.test_explain import _sigmoid_attention, _squared_gate, _turned_backwards, explanation_of


def _unit_length(decoder: Decoder, x: Tensor) -> Tensor:
    return x / torch.sqrt(x.pow(2).sum(-1, keepdim=True) + 1e-5) * decoder.gain


def _softmax_by_hand(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = decoder.heads(x)
    slots = torch.arange(x.shape[1])
    mask = torch.where(slots[None] <= slots[:, None], 0.0, -1e9)
    shares = torch.exp(query @ key.transpose(2, 3) * 0.7 + mask)
    return merged((shares / shares.sum(-1, keepdim=True)) @ value)


def _finished(path: Path, becomes: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    at = next(index for index, line in enumerate(lines) if line.startswith("    # TODO")) + 1
    lines[at] = f"    return {becomes}\n"
    path.write_text("".join(lines))


@pytest.mark.parametrize(
    ("mix", "attend"),
    [(_unit_length, causal), (_squared_gate, causal), (lambda _, x: x, _turned_backwards)]
    + [(lambda _, x: x, each) for each in (_sigmoid_attention, _softmax_by_hand)],
)
def test_a_scaffold_of_each_kind_loads(mix: Change, attend: Change, tmp_path: Path) -> None:
    path = write_scaffold(explanation_of(Decoder(mix, attend)), tmp_path / "blocks.py")
    (pattern,) = load_file(path).patterns
    assert pattern.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)


def test_a_part_is_written_as_people_write_it_with_the_sizes_of_parameters(tmp_path: Path) -> None:
    path = write_scaffold(explanation_of(Decoder(attend=_turned_backwards)), tmp_path / "blocks.py")
    assert re.search(r"= x\[\.\.\., :(cos|sin)\.shape\[-1\]\]", path.read_text())
    assert "torch.ops" not in path.read_text()


def _turned_by_tables(decoder: Decoder, x: Tensor) -> Tensor:
    """Queries have an axis more than keys."""
    query, key, value = decoder.heads(x)
    places, signs = torch.tensor([2, 3, 0, 1]), torch.tensor([-1.0, -1.0, 1.0, 1.0])
    angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])

    def turned(x: Tensor) -> Tensor:
        return x * angles.cos() + x[..., places] * signs * angles.sin()

    query = turned(query[None])[0]
    return merged(F.scaled_dot_product_attention(query, turned(key), value, is_causal=True))


def test_a_scaffold_has_the_models_tables_and_matches_with_more_axes(tmp_path: Path) -> None:
    decoder = Decoder(attend=_turned_by_tables)
    path = write_scaffold(explanation_of(decoder), tmp_path / "blocks.py")
    assert '"index": torch.tensor([2, 3, 0, 1])' in path.read_text()
    program = rewrite(decoder, patterns=(*load_file(path).patterns, *PATTERNS))
    assert program.recognition.patterns["rotary.mine"] == 2


def test_a_scaffold_does_not_match_with_other_tables(tmp_path: Path) -> None:
    path = write_scaffold(explanation_of(Decoder(attend=_turned_by_tables)), tmp_path / "blocks.py")
    text = path.read_text()
    path.write_text(
        text.replace("[2, 3, 0, 1]", "[3, 2, 1, 0]").replace(
            "ops.rotary(x, cos, sin)", "matches(x, cos, index, table, sin)"
        )
    )
    program = rewrite(Decoder(attend=_turned_by_tables), patterns=(*load_file(path).patterns, *PATTERNS))
    assert "rotary.mine" not in program.recognition.patterns
    assert any("has other constants" in str(miss) for miss in program.recognition.near_misses)


def test_a_finished_norm_is_recognised(tmp_path: Path) -> None:
    decoder = Decoder(_unit_length)
    path = write_scaffold(explanation_of(decoder), tmp_path / "blocks.py")
    _finished(path, "ops.rms_norm(x, gain * x.shape[-1] ** -0.5, eps / x.shape[-1])")
    program = rewrite(decoder, patterns=(*load_file(path).patterns, *PATTERNS))
    assert program.recognition.patterns["norm.mine"] == 1


def test_refused_attention_converts_with_its_finished_scaffold(tmp_path: Path) -> None:
    decoder = Decoder(attend=_softmax_by_hand)
    explanation = explanation_of(decoder)
    assert explanation.refusal is not None
    path = write_scaffold(explanation, tmp_path / "blocks.py")
    _finished(path, "ops.attention(query, key.transpose(-2, -1), value, mask, scale, False)")
    program = rewrite(decoder, patterns=(*load_file(path).patterns, *PATTERNS))
    assert program.recognition.patterns["attention.mine"] == 1
    assert [state.kind for state in program.states] == ["key", "value"]


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "blocks.py"
    path.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        write_scaffold(explanation_of(Decoder(_unit_length)), path)
    assert path.read_text() == "mine"
