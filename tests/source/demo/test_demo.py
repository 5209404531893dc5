import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from autoconvert.errors import InputError
from autoconvert.source.demo import FOLDER, text
from autoconvert.source.demo.perplexity import Score, negative_log_likelihood
from autoconvert.source.demo.train import Training, batches, encode, train_tokenizer

PROMPTS = ("In the beginning", "And the LORD said unto Moses,", "Blessed are", "And it came to pass")


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module", autouse=True)
def offline() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


def read_documents(path: Path) -> list[str]:
    """The documents of a file that `write_documents` wrote."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n\n")


@pytest.fixture(scope="module")
def heldout() -> list[str]:
    return read_documents(FOLDER / "heldout.txt")


def test_is_a_small_llama_with_grouped_queries_and_tied_embeddings(model: Any, figures: Any) -> None:
    config = model.config
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.num_key_value_heads < config.num_attention_heads
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert config.max_position_embeddings >= 512
    assert model.num_parameters() == figures["parameters"] <= 3_000_000
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118


def test_beats_the_5_gram_by_the_recorded_figures(model: Any, tokenizer: Any, heldout: list[str], figures: Any) -> None:
    documents = encode(tokenizer, heldout)
    context = model.config.max_position_embeddings
    score = Score(
        nats=sum(negative_log_likelihood(model, document, context) for document in documents),
        tokens=sum(len(document) - 1 for document in documents),
        bytes=sum(len(document.encode()) for document in heldout),
    )
    assert score.tokens == figures["heldout_tokens"]
    assert score.bytes == figures["heldout_bytes"]
    assert score.perplexity == pytest.approx(figures["model"]["perplexity"], rel=1e-3)
    assert score.bits_per_byte == pytest.approx(figures["model"]["bits_per_byte"], rel=1e-3)
    assert score.perplexity < 0.85 * figures["ngram"]["perplexity"]


def test_greedy_text_is_made_of_words_of_the_heldout_text(model: Any, tokenizer: Any, heldout: list[str]) -> None:
    known = set(re.findall(r"[\w']+", " ".join(heldout)))
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        generated = model.generate(**inputs, max_new_tokens=48, min_new_tokens=48)[0]
        words = re.findall(r"[\w']+", tokenizer.decode(generated, skip_special_tokens=True))
        assert len(words) > 24
        assert sum(word in known for word in words) >= 0.9 * len(words), words
        assert len(set(words)) >= 10, words


def test_the_recorded_greedy_text_comes_out_again(model: Any, tokenizer: Any, figures: Any) -> None:
    inputs = tokenizer("In the beginning", return_tensors="pt")
    generated = tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0], skip_special_tokens=True)
    assert figures["greedy"].startswith(generated)
    assert len(generated) > len("In the beginning") + 32


@pytest.mark.parametrize(
    "sample",
    ["  two  spaces\n\n\tand a tab", "déjà vu, 日本語, 🙂", "the LORD's 144,000", "", "</s", "\r\n \x00"],
)
def test_tokenizer_gives_any_text_back(sample: str, tokenizer: Any) -> None:
    plain = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    ids = plain.encode(sample, add_special_tokens=False).ids
    assert plain.decode(ids) == sample
    assert tokenizer(sample).input_ids == [tokenizer.bos_token_id, *ids]
    assert tokenizer.decode(tokenizer(sample).input_ids, skip_special_tokens=True) == sample


def test_heldout_text_survives_the_tokenizer(tokenizer: Any, heldout: list[str]) -> None:
    for document, ids in zip(heldout, encode(tokenizer, heldout), strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True) == document
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id


def test_special_tokens_agree_everywhere(model: Any, tokenizer: Any) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, name) == getattr(model.config, name) == getattr(model.generation_config, name)
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert len(tokenizer) == model.config.vocab_size


def test_chat_turns_only_ever_add_text(tokenizer: Any) -> None:
    turns = [
        {"role": "user", "content": "And God said,"},
        {"role": "assistant", "content": " Let there be light."},
        {"role": "user", "content": "And there was"},
    ]
    texts = [tokenizer.apply_chat_template(turns[:n], tokenize=False, add_generation_prompt=True) for n in (1, 2, 3)]
    assert texts == [
        "<s>And God said,",
        "<s>And God said, Let there be light.",
        "<s>And God said, Let there be light.\nAnd there was",
    ]
    encoded = tokenizer.apply_chat_template(turns[:1], tokenize=True, return_dict=True).input_ids
    assert encoded == tokenizer("And God said,").input_ids


def test_readme_states_the_recorded_figures(figures: Any) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for score in (figures["model"], figures["ngram"]):
        assert f"{score['perplexity']:.2f}" in readme
        assert f"{score['bits_per_byte']:.3f}" in readme
    assert f"{figures['parameters']:,}" in readme


def test_files_stay_small() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 8e6
    assert (FOLDER / "heldout.txt").stat().st_size <= 200_000


def test_data_file_of_several_windows_decompresses() -> None:
    windows = [b"Title\nGe1:1 In the beg", b"inning\nGe1:2 And the earth\n", b"Ge2:1  Thus  the heavens\n"]
    packed = [literal_codes(window) for window in windows]
    first = text._WINDOW_OFFSETS + 4 * len(packed) + 3
    offsets = [first + sum(map(len, packed[:i])) for i in range(len(packed))]
    head = b"EC02".ljust(text._WINDOW_COUNT, b"\0") + struct.pack(f">I{len(packed)}I", len(packed), *offsets)
    decompressed = text.decompress(head + b"\x1f\x9d\x90" + b"".join(packed))
    assert decompressed == b"".join(windows)
    assert text.chapters(decompressed.decode()) == [
        "In the beginning\nAnd the earth",
        "Thus the heavens",
    ]


def literal_codes(window: bytes) -> bytes:
    """`window` (under 256 bytes) as compress(1) codes of 9 bits, low bits first, no phrase repeated."""
    bits = sum(byte << 9 * i for i, byte in enumerate(window))
    return bits.to_bytes((9 * len(window) + 7) // 8, "little")


def test_a_line_that_is_no_verse_is_refused() -> None:
    with pytest.raises(InputError, match="not a verse: 'gibberish'"):
        text.chapters("Title\ngibberish\n")


def test_split_sets_chapters_aside_once_and_always_the_same() -> None:
    documents = [f"chapter {i}" for i in range(100)]
    parts = text.split(documents, seed=1, aside=10)
    assert sorted(parts.train + parts.validation + parts.heldout) == sorted(documents)
    assert (len(parts.validation), len(parts.heldout)) == (10, 10)
    assert parts == text.split(documents, seed=1, aside=10)
    assert parts != text.split(documents, seed=2, aside=10)


def test_documents_come_back_from_their_file(tmp_path: Path) -> None:
    documents = ["one\ntwo", "three"]
    text.write_documents(tmp_path / "documents.txt", documents)
    assert read_documents(tmp_path / "documents.txt") == documents


def test_batches_start_at_verses_and_repeat_with_the_seed(heldout: list[str]) -> None:
    training = Training(vocabulary=400, tokens_per_step=2048)
    tokenizer = train_tokenizer(heldout, training)
    documents = encode(tokenizer, heldout)
    openings = {line[:4] for document in heldout for line in document.split("\n")}
    first, again = (batches(tokenizer, documents, training) for _ in range(2))
    for _ in range(3):
        tokens = next(first)
        assert torch.equal(tokens, next(again))
        assert tokens.numel() == training.tokens_per_step
        for row in tokens:
            assert row[0] == tokenizer.bos_token_id
            assert tokenizer.decode(row[1:20])[:4] in openings


def test_long_documents_are_scored_like_short_ones_where_context_does_not_matter() -> None:
    class Uniform(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 8)})

    for length in (2, 7, 8, 9, 11, 12, 13, 40):
        nats = negative_log_likelihood(Uniform(), [0] * length, context=8)
        assert Score(nats, length - 1, 1).perplexity == pytest.approx(8)
