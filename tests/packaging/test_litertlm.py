import contextlib
import hashlib
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconvert.errors import InputError, MachineError
from autoconvert.lowering.cpu import CPU
from autoconvert.packaging import litertlm
from autoconvert.packaging.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.packaging.tokenizer_section import TokenizerSection
from autoconvert.runtime.stub import write_stub

SECTION = TokenizerSection("huggingface", b'{"version": "1.0"}', "")
SPEC = TokenizerSpec(SECTION, None, (1,), None, None)


def write(tflite: Path, path: Path, section: TokenizerSection = SECTION, *, consume: bool = False) -> None:
    digest = ""
    if tflite.exists():
        with tflite.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    metadata = build_llm_metadata(SPEC, 64), build_executor_metadata((), 64, CPU)
    litertlm.write_bundle(tflite, digest, section, *metadata, path, CPU.section, consume=consume)


@pytest.fixture
def tflite(tmp_path: Path) -> Path:
    file = tmp_path / "model.tflite"
    file.write_bytes(bytes(range(256)) * 300)
    return file


def test_sections_hold_their_content_on_16_kib_boundaries(tflite: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "model.litertlm"
    write(tflite, bundle)
    content = bundle.read_bytes()
    sections = {section.kind: section for section in litertlm.read_sections(bundle)}
    assert all(section.begin % (16 << 10) == 0 for section in sections.values())
    model = sections["TFLiteModel"]
    assert content[model.begin : model.end] == tflite.read_bytes()
    tokenizer = content[sections["HF_Tokenizer_Zlib"].begin : sections["HF_Tokenizer_Zlib"].end]
    assert int.from_bytes(tokenizer[:8], "little") == len(SECTION.content)
    assert zlib.decompress(tokenizer[8:]) == SECTION.content
    assert litertlm.read_llm_metadata(bundle) == build_llm_metadata(SPEC, 64)


def test_a_sentencepiece_tokenizer_is_stored_as_it_is(tflite: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "model.litertlm"
    write(tflite, bundle, TokenizerSection("sentencepiece", b"pieces", ""))
    (section,) = [s for s in litertlm.read_sections(bundle) if s.kind == "SP_Tokenizer"]
    assert bundle.read_bytes()[section.begin : section.end] == b"pieces"


def test_the_same_inputs_give_the_same_bytes_and_others_another_uuid(tflite: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.litertlm", "b.litertlm", "c.litertlm"))
    write(tflite, first)
    write(tflite, second)
    assert first.read_bytes() == second.read_bytes()
    tflite.write_bytes(tflite.read_bytes()[:-1] + b"x")
    write(tflite, third)
    # The header, which holds the UUID, ends before the first section.
    assert first.read_bytes()[: 16 << 10] != third.read_bytes()[: 16 << 10]


def test_a_failure_leaves_what_was_there_and_nothing_else(
    tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "model.litertlm"
    bundle.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(litertlm, "stamp", full)
    with pytest.raises(MachineError, match="No space left") as caught:
        write(tflite, bundle)
    assert "Free some space" in caught.value.hint
    assert bundle.read_bytes() == b"before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.litertlm", "model.tflite"]


@pytest.mark.parametrize("disk_can_insert", [True, False])
def test_a_model_that_becomes_the_bundle_gives_the_bytes_of_one_that_is_copied(
    tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_can_insert: bool
) -> None:
    copied, moved = tmp_path / "copied.litertlm", tmp_path / "moved.litertlm"
    write(tflite, copied)
    if not disk_can_insert:
        monkeypatch.setattr(litertlm, "insert_at_front", lambda *_: False)
    write(tflite, moved, consume=True)
    assert moved.read_bytes() == copied.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_missing_output_folder_is_a_machine_error(tflite: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot write") as caught:
        write(tflite, tmp_path / "absent" / "model.litertlm")
    assert caught.value.hint == "Create the output folder first."


@pytest.mark.parametrize("damage", ["other", "short", "header"])
def test_a_file_that_is_no_whole_bundle_is_an_input_error(tflite: Path, tmp_path: Path, damage: str) -> None:
    bundle = tmp_path / "model.litertlm"
    write(tflite, bundle)
    content = bundle.read_bytes()
    damaged = {"other": b"TFL3" + content, "short": content[:-1], "header": content[:20]}[damage]
    bundle.write_bytes(damaged)
    with pytest.raises(InputError):
        litertlm.read_sections(bundle)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("stub") / "model.litertlm"
    write_stub(SPEC, file)
    return file.read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), min_size=1, max_size=12), cut=st.integers()
)
def test_whatever_bytes_a_bundle_has_it_is_read_or_an_input_error(
    whole: bytes, tmp_path: Path, places: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(whole)
    for at, value in places:
        # Most of a bundle is padding: the header and the beginnings of sections tell.
        content[(at % 400 + 16384 * (at // 400 % 4)) % len(content)] = value
    bundle = tmp_path / "model.litertlm"
    bundle.write_bytes(content[: cut % len(content)] if cut % 4 == 0 else content)
    for read in (litertlm.read_sections, litertlm.read_llm_metadata, litertlm.read_signatures):
        with contextlib.suppress(InputError):
            read(bundle)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rest=st.binary(max_size=400))
def test_a_file_that_begins_as_a_bundle_and_goes_on_anyhow_is_an_input_error(tmp_path: Path, rest: bytes) -> None:
    bundle = tmp_path / "model.litertlm"
    bundle.write_bytes(litertlm.MAGIC + rest)
    with pytest.raises(InputError):
        litertlm.read_llm_metadata(bundle)


def test_a_large_model_is_not_read_into_memory(tmp_path: Path) -> None:
    tflite = tmp_path / "model.tflite"
    with tflite.open("wb") as stream:
        stream.truncate(400 << 20)
    program = f"""
        import resource
        from pathlib import Path
        from tests.packaging.test_litertlm import write
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        write(Path({str(tflite)!r}), Path({str(tmp_path / "model.litertlm")!r}))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    root = Path(__file__).parents[2]
    grown = int(subprocess.run(run, check=True, capture_output=True, cwd=root, text=True).stdout)
    (tmp_path / "model.litertlm").unlink()
    assert grown < 50
