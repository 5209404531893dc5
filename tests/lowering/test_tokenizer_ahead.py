"""A tokenizer that was read ahead is the one that reading gives, and no process stays behind."""

from pathlib import Path

import psutil
import pytest

from autoconvert.errors import InputError
from autoconvert.lowering.tokenizer import read_tokenizer
from autoconvert.lowering.tokenizer_ahead import tokenizer_ahead
from tests.lowering.tiny_bundle import CHAT_TEMPLATE, byte_level_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE).save_pretrained(tmp_path)
    return tmp_path


def readers() -> list[psutil.Process]:
    """The processes that this one has started to read tokenizers."""
    children = psutil.Process().children()
    return [child for child in children if any("tokenizer_ahead" in word for word in child.cmdline())]


def test_it_is_what_reading_gives(folder: Path) -> None:
    with tokenizer_ahead(folder, large=1) as read:
        assert readers()
        assert read(folder) == read_tokenizer(folder)
    assert not readers()


def test_a_small_one_needs_no_process(folder: Path) -> None:
    with tokenizer_ahead(folder) as read:
        assert not readers()
        assert read(folder) == read_tokenizer(folder)


def test_what_is_wrong_is_said_as_by_reading(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with tokenizer_ahead(folder, large=1) as read, pytest.raises(InputError) as ahead:
        read(folder)
    with pytest.raises(InputError) as here:
        read_tokenizer(folder)
    assert (ahead.value.message, ahead.value.hint) == (here.value.message, here.value.hint)


def test_a_process_that_nobody_waits_for_ends(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tokenizer_ahead(folder, large=1):
        raise KeyboardInterrupt
    assert not readers()


def test_a_process_that_is_stopped_is_made_up_for(folder: Path) -> None:
    with tokenizer_ahead(folder, large=1) as read:
        for process in readers():
            process.kill()
        assert read(folder) == read_tokenizer(folder)


def test_another_folder_is_read_here(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE).save_pretrained(other)
    with tokenizer_ahead(folder, large=1) as read:
        assert read(other) == read_tokenizer(other)
