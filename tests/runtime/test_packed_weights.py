"""Weights are packed once for CompiledModel and for the engine."""

from pathlib import Path

from autoconvert.packaging.litertlm import copy_section, read_sections
from autoconvert.runtime.engine import open_remote_engine
from autoconvert.runtime.packed_weights import hand_over, packed_file, packed_weights
from autoconvert.runtime.runner import start_file
from autoconvert.runtime.scoring import runtime_ids
from tests.packaging.tiny_bundle import bundle


def test_the_engine_takes_what_was_packed_of_the_file(tmp_path: Path) -> None:
    whole, file = bundle(tmp_path / "model.litertlm"), tmp_path / "model.tflite"
    (section,) = (each for each in read_sections(whole) if each.kind == "TFLiteModel")
    copy_section(whole, section, file)
    with packed_weights() as folder:
        with start_file(file, folder) as start:
            start().decode(1)
        before = packed_file(folder).stat()
        assert before.st_size
        hand_over(folder, whole)
        with open_remote_engine(whole, packed=folder) as engine:
            assert engine.ask(runtime_ids, "a")
        (left,) = folder.iterdir()
        after = left.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert not folder.exists()


def test_what_was_packed_of_another_file_is_not_taken(tmp_path: Path) -> None:
    whole = bundle(tmp_path / "model.litertlm")
    with packed_weights() as folder:
        packed_file(folder).write_bytes(b"no packed weights")
        hand_over(folder, whole)
        with open_remote_engine(whole, packed=folder) as engine:
            assert engine.ask(runtime_ids, "a")
