"""Native code that dies of a file is a failed check: the conversion goes on to say so, and leaves nothing."""

from pathlib import Path

import pytest

import autoconvert
from tests.packaging.tiny_bundle import byte_level_tokenizer, tiny_llama


def test_an_engine_that_dies_of_a_bundle_is_a_failed_check_with_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of a prime number of slots and a shape that only a run shows, which are never made otherwise."""
    monkeypatch.setattr("autoconvert.lowering.cpu._is_prime", lambda number: False)
    monkeypatch.setattr("autoconvert.lowering.flatbuffer._empty_constants", lambda subgraph: set())
    tokenizer = byte_level_tokenizer(prepends_start=True)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(autoconvert.CheckFailed, match=r"the runtime dies of .*model\.litertlm: it ended with SIG"):
        autoconvert.convert(tmp_path / "model", tmp_path / "out", context=89, prefill=(8,), cache=False)
    assert not (tmp_path / "out").exists()
