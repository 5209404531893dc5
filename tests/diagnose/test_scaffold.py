"""The beginning of a pattern file: found where it was taken from, and once it is finished the model is covered."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.check.pattern import check_pattern
from autoconvert.diagnose.explanation import Explanation
from autoconvert.diagnose.scaffold import write_scaffold
from autoconvert.driver.library import load_file
from autoconvert.errors import InputError
from autoconvert.patterns import PATTERNS
from tests.diagnose.test_explanation import _sigmoid_attention, _squared_gate, _turned_backwards, explanation_of
from tests.diagnose.test_plain_blocks import ATTENTIONS, FEED_FORWARDS, NORMS, ROTARIES
from tests.models import Change, Decoder, assert_chunks_give_what_the_model_gives, causal, merged, rewrite


def _unit_length(decoder: Decoder, x: Tensor) -> Tensor:
    return x / torch.sqrt(x.pow(2).sum(-1, keepdim=True) + 1e-5) * decoder.gain


def _softmax_by_hand(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = decoder.heads(x)
    slots = torch.arange(x.shape[1])
    mask = torch.where(slots[None] <= slots[:, None], 0.0, -1e9)
    shares = torch.exp(query @ key.transpose(2, 3) * 0.7 + mask)
    return merged((shares / shares.sum(-1, keepdim=True)) @ value)


def _softmax_of_columns(decoder: Decoder, x: Tensor) -> Tensor:
    """Keys come first: scores have a row for each of them."""
    query, key, value = decoder.heads(x)
    slots = torch.arange(x.shape[1])
    mask = torch.where(slots[:, None] <= slots[None], 0.0, -1e9)
    shares = torch.exp(key @ query.transpose(2, 3) * 0.7 + mask)
    return merged((shares / shares.sum(2, keepdim=True)).transpose(2, 3) @ value)


def written(explanation: Explanation, path: Path) -> Path:
    write_scaffold(explanation, path)
    return path


@pytest.mark.parametrize(
    ("mix", "attend"),
    [(_unit_length, causal), (_squared_gate, causal), (lambda _, x: x, _turned_backwards)]
    + [(lambda _, x: x, each) for each in (_sigmoid_attention, _softmax_by_hand)],
)
def test_a_scaffold_of_each_kind_loads(mix: Change, attend: Change, tmp_path: Path) -> None:
    path = written(explanation_of(Decoder(mix, attend)), tmp_path / "blocks.py")
    (pattern,) = load_file(path).patterns
    assert pattern.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)


def test_a_part_is_written_as_people_write_it_with_the_sizes_of_parameters(tmp_path: Path) -> None:
    path = written(explanation_of(Decoder(attend=_turned_backwards)), tmp_path / "blocks.py")
    assert re.search(r"= x\[\.\.\., :(cos|sin)\.shape\[-1\]\]", path.read_text())
    assert "torch.ops" not in path.read_text()


@pytest.mark.parametrize(("attend", "order"), [(_softmax_by_hand, "query, key"), (_softmax_of_columns, "key, query")])
def test_what_a_softmax_is_for_is_called_a_query(attend: Change, order: str, tmp_path: Path) -> None:
    path = written(explanation_of(Decoder(attend=attend)), tmp_path / "blocks.py")
    names = order.replace(", ", ": Tensor, ")
    assert f"matches({names}: Tensor" in path.read_text()


def _turned_by_tables(decoder: Decoder, x: Tensor) -> Tensor:
    """Queries have an axis more than keys."""
    query, key, value = decoder.heads(x)
    places, signs = torch.tensor([1, 0, 3, 2]), torch.tensor([-1.0, 1.0, -1.0, 1.0])
    angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 1.0, 0.1, 0.1])

    def turned(x: Tensor) -> Tensor:
        return x * angles.cos() + x[..., places] * signs * angles.sin()

    query = turned(query[None])[0]
    return merged(F.scaled_dot_product_attention(query, turned(key), value, is_causal=True))


def test_a_scaffold_has_the_models_tables_and_matches_with_more_axes(tmp_path: Path) -> None:
    decoder = Decoder(attend=_turned_by_tables)
    path = written(explanation_of(decoder), tmp_path / "blocks.py")
    assert '"index": torch.tensor([1, 0, 3, 2])' in path.read_text()
    program = rewrite(decoder, patterns=(*load_file(path).patterns, *PATTERNS))
    assert program.fusion.patterns["rotary.mine"] == 2


def test_a_scaffold_does_not_match_with_other_tables(tmp_path: Path) -> None:
    path = written(explanation_of(Decoder(attend=_turned_by_tables)), tmp_path / "blocks.py")
    text = path.read_text()
    path.write_text(
        text.replace("[1, 0, 3, 2]", "[3, 2, 1, 0]").replace(
            "ops.rotary(x, cos, sin, True)", "matches(x, cos, index, table, sin)"
        )
    )
    program = rewrite(Decoder(attend=_turned_by_tables), patterns=(*load_file(path).patterns, *PATTERNS))
    assert "rotary.mine" not in program.fusion.patterns
    assert any("has other constants" in str(miss) for miss in program.fusion.near_misses)


COMPLETE: dict[str, Decoder] = {
    "a norm of lengths": Decoder(NORMS["normalised"]),
    "a norm by a dot product": Decoder(NORMS["a product with itself"]),
    "a norm by variance and mean": Decoder(NORMS["variance and mean"]),
    "a rotary embedding by index": Decoder(attend=ROTARIES["an index"]),
    "a feed-forward with a gate written out": Decoder(FEED_FORWARDS["a gate written out"]),
    "attention with the mask added": Decoder(attend=_softmax_by_hand),
    "attention whose keys come first": Decoder(attend=_softmax_of_columns),
    "attention by logsumexp": Decoder(attend=ATTENTIONS["logsumexp"]),
    "attention by log softmax": Decoder(attend=ATTENTIONS["log softmax"]),
    "attention that divides at the end": Decoder(attend=ATTENTIONS["divided after"]),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_what_is_an_operation_in_other_words_is_covered_by_its_scaffold_as_it_is(name: str, tmp_path: Path) -> None:
    decoder = COMPLETE[name]
    explanation = explanation_of(decoder)
    assert explanation.region is not None
    assert write_scaffold(explanation, tmp_path / "blocks.py").is_complete
    (pattern,) = load_file(tmp_path / "blocks.py").patterns
    check_pattern(pattern)
    program = rewrite(decoder, patterns=(pattern, *PATTERNS))
    assert program.fusion.patterns[f"{explanation.region.kind}.mine"] > 0
    assert_chunks_give_what_the_model_gives(program, decoder)


@pytest.mark.parametrize(
    "decoder",
    [
        # Nearly the same: what is added is added to the root here, and to the square there.
        Decoder(NORMS["a dot product"]),
        Decoder(FEED_FORWARDS["two projections"]),
        Decoder(attend=ATTENTIONS["sigmoid"]),
    ],
    ids=["norm", "feed-forward", "attention"],
)
def test_what_is_no_operation_is_left_to_finish(decoder: Decoder, tmp_path: Path) -> None:
    scaffold = write_scaffold(explanation_of(decoder), tmp_path / "blocks.py")
    assert not scaffold.is_complete
    assert "TODO" in scaffold.code
    (pattern,) = load_file(tmp_path / "blocks.py").patterns
    with pytest.raises(InputError, match="`becomes` cannot be run on the example: call the operation"):
        check_pattern(pattern)


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "blocks.py"
    path.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        write_scaffold(explanation_of(Decoder(_unit_length)), path)
    assert path.read_text() == "mine"
