"""The `.litertlm` bundle: metadata, tokenizer, model and a receipt in one file, each section on a 16 KiB boundary.

Format (litert-lm-builder 0.18, file version 1.7): magic, version, the end of the header at byte 24, from
byte 32 a flatbuffer that says where each section lies. Buffers behind the model's flatbuffer are addressed
from the start of its section, so the boundary keeps their alignment.
"""

import errno
import hashlib
import io
import mmap
import os
import shutil
import struct
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import flatbuffers
from ai_edge_litert import schema_py_generated as tflite_schema
from google.protobuf.message import DecodeError
from litert_lm_builder import DType, LitertLmFileBuilder, Metadata, TfLiteModelType
from litert_lm_builder import litertlm_header_schema_py_generated as schema
from litert_lm_builder.litertlm_peek import kvp_to_dict, read_litertlm_header
from litert_lm_builder.runtime.proto.executor_metadata_pb2 import ExecutorMetadata
from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

from autoconvert.errors import BROKEN, InputError, MachineError
from autoconvert.packaging.tokenizer_section import TokenizerSection
from autoconvert.system.hashing import digest_of, file_pieces
from autoconvert.system.insert_range import insert_at_front
from autoconvert.system.output import whole_file

HEADER_BEGIN = 32
HEADER_END_FIELD = 24
MAGIC = b"LITERTLM"
# What the section of a receipt is called: the runtime passes over sections of a kind that it has no use for.
RECEIPT = "autoconvert.receipt"
EPOCH = "1970-01-01T00:00:00+00:00"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/google-ai-edge/LiteRT-LM")


@dataclass(frozen=True)
class Section:
    """Where a section lies: `kind` as the schema names it, bytes `begin` to `end` of the file.

    `model` is the runtime's name for a model of this kind, as tf_lite_prefill_decode, where the section is one; `name`
    is what it is called where the runtime knows nothing of its kind.
    """

    kind: str
    begin: int
    end: int
    model: str = ""
    name: str = ""

    @property
    def size(self) -> int:
        return self.end - self.begin


def write_bundle(
    tflite: Path,
    digest: str,
    tokenizer: TokenizerSection,
    llm_metadata: LlmMetadata,
    executor_metadata: ExecutorMetadata,
    path: Path,
    section: str,
    *,
    consume: bool = False,
    receipt_room: int = 0,
    author: str = "autoconvert",
    created: str = EPOCH,
) -> None:
    """Writes `path`: the same inputs give the same bytes, and `path` appears only when it is whole.

    `digest` stands for the content of `tflite`, which is copied by the system, not read; with `consume` it may become
    the bundle itself, and be gone. `section` is the runtime's name for a model of this kind. With `receipt_room` there
    is a section RECEIPT of so many spaces, which `write_section` fills. `created` is the file's timestamp, ISO 8601;
    the default keeps files reproducible. Raises InputError without `tflite`, MachineError when the system refuses a
    write.
    """
    if not tflite.is_file():
        raise InputError(f"there is no model at {tflite}", hint="Convert the model first.")
    with system_errors(path), tempfile.TemporaryDirectory() as folder:
        require_room(path, tflite.stat().st_size + len(tokenizer.content))
        parts = {
            "llm_metadata.pb": llm_metadata.SerializeToString(deterministic=True),
            "executor_metadata.pb": executor_metadata.SerializeToString(deterministic=True),
            "tokenizer.json" if tokenizer.kind == "huggingface" else "tokenizer.model": tokenizer.content,
        }
        files = {name: Path(folder, name) for name in parts}
        for name, content in parts.items():
            files[name].write_bytes(content)
        builder = LitertLmFileBuilder()
        builder.add_system_metadata(Metadata(key="Authors", value=author, dtype=DType.STRING))
        builder.add_llm_metadata(str(files["llm_metadata.pb"]))
        builder.add_executor_metadata(str(files["executor_metadata.pb"]))
        if tokenizer.kind == "huggingface":
            builder.add_hf_tokenizer(str(files["tokenizer.json"]))
        else:
            builder.add_sentencepiece_tokenizer(str(files["tokenizer.model"]))
        if receipt_room:
            blank = Path(folder, "receipt.json")
            blank.write_bytes(b" " * receipt_room)
            builder.add_generic_binary_data(str(blank), [Metadata(key="name", value=RECEIPT, dtype=DType.STRING)])
        # The builder would copy the model through Python: it gets a byte, and the model takes its place.
        placeholder = Path(folder, "placeholder.tflite")
        placeholder.write_bytes(b"\0")
        builder.add_tflite_model(str(placeholder), TfLiteModelType[section])
        identity = content_uuid(digest, [author.encode(), created.encode(), *parts.values()])
        with whole_file(path) as stream:
            builder.build(stream, validate_metadata=True)
            system = {"Authors": author, "uuid": identity, "creation_timestamp": created}
            begin = stamp(Path(stream.name), stream, system, tflite.stat().st_size)
            if not (consume and move_into(tflite, stream, begin)):
                copy_into(tflite, stream, begin)


def content_uuid(digest: str, others: list[bytes]) -> str:
    """A UUID that follows from the digest of the model and the content of `others`."""
    whole = hashlib.sha256(bytes.fromhex(digest))
    for other in others:
        whole.update(hashlib.sha256(other).digest())
    return str(uuid.uuid5(NAMESPACE, whole.hexdigest()))


def move_into(source: Path, stream: BinaryIO, begin: int) -> bool:
    """Puts the first `begin` bytes of `stream` before those of `source`, which takes its name; False if it cannot."""
    with source.open("r+b") as file:
        if not insert_at_front(file, begin):
            return False
        stream.seek(0)
        file.write(stream.read(begin))
    source.replace(stream.name)
    return True


def copy_into(source: Path, stream: BinaryIO, begin: int) -> None:
    """Copies a file to `begin` of `stream`: by the system where it can, which some disks do without copying."""
    stream.flush()
    with source.open("rb") as file:
        if not hasattr(os, "copy_file_range"):
            stream.seek(begin)
            shutil.copyfileobj(file, stream, 1 << 24)
            return
        done, size = 0, source.stat().st_size
        while done < size:
            done += os.copy_file_range(file.fileno(), stream.fileno(), size - done, done, begin + done)


def stamp(path: Path, stream: BinaryIO, system: dict[str, str], model_size: int) -> int:
    """Writes a built bundle's header anew with `system`: the builder sets a random UUID and the time.

    The last section becomes `model_size` bytes long; gives where it begins.
    """
    stream.flush()
    header = read_litertlm_header(str(path), io.StringIO())
    objects = header.SectionMetadata()
    sections = [
        schema.SectionObjectT(
            items=[string_entry(**kvp_to_dict(s.Items(i))) for i in range(s.ItemsLength())],
            dataType=s.DataType(),
            beginOffset=s.BeginOffset(),
            endOffset=s.EndOffset(),
        )
        for s in map(objects.Objects, range(objects.ObjectsLength()))
    ]
    sections[-1].endOffset = sections[-1].beginOffset + model_size
    packer = flatbuffers.Builder(1024)
    packer.Finish(
        schema.LiteRTLMMetaDataT(
            systemMetadata=schema.SystemMetadataT(entries=[string_entry(k, v) for k, v in system.items()]),
            sectionMetadata=schema.SectionMetadataT(objects=sections),
        ).Pack(packer)
    )
    packed, first = bytes(packer.Output()), sections[0].beginOffset
    if HEADER_BEGIN + len(packed) > first:
        raise InputError(
            f"a header of {len(packed)} bytes does not fit before the first section at {first}",
            hint="Give a shorter author.",
        )
    stream.seek(HEADER_END_FIELD)
    stream.write(struct.pack("<Q", HEADER_BEGIN + len(packed)))
    stream.write(packed.ljust(first - HEADER_BEGIN, b"\0"))
    return int(sections[-1].beginOffset)


def string_entry(key: str, value: str, value_type: str = "String") -> schema.KeyValuePairT:
    return Metadata(key=key, value=value, dtype=DType(value_type.lower())).to_key_value_pair()


def read_sections(bundle: Path) -> tuple[Section, ...]:
    """The sections of a bundle in file order. Raises InputError if `bundle` is missing or is none."""
    with _readable(bundle):
        with bundle.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise InputError(
                    f"{bundle} is not a .litertlm file",
                    hint="Give the model.litertlm that a conversion wrote.",
                )
        size = bundle.stat().st_size
        objects = read_litertlm_header(str(bundle), io.StringIO()).SectionMetadata()
        names = {value: name for name, value in vars(schema.AnySectionDataType).items()}
        sections = [objects.Objects(i) for i in range(objects.ObjectsLength())]
        found = tuple(
            Section(names[s.DataType()], s.BeginOffset(), s.EndOffset(), _item(s, "model_type"), _item(s, "name"))
            for s in sections
        )
    if not found or any(section.end > size for section in found):
        raise InputError(f"{bundle} is cut short at {size} bytes", hint="Convert or fetch the file again.")
    if any(section.begin > section.end for section in found):
        raise InputError(f"{bundle} has a broken header", hint="Convert or fetch the file again.")
    return found


def copy_section(bundle: Path, section: Section, path: Path) -> None:
    """Writes a section of a bundle as a file of its own. Raises MachineError when the system refuses."""
    with system_errors(path):
        require_room(path, section.size)
        with bundle.open("rb") as source, path.open("wb") as stream:
            source.seek(section.begin)
            left = section.size
            while left and (part := source.read(min(left, 1 << 24))):
                stream.write(part)
                left -= len(part)


def read_section(bundle: Path, section: Section) -> bytes:
    """The content of a section that is known to be small. Raises InputError if `bundle` cannot be read."""
    with _readable(bundle), bundle.open("rb") as stream:
        stream.seek(section.begin)
        return stream.read(section.size)


def write_section(bundle: Path, section: Section, content: bytes) -> None:
    """Puts `content` in the place of a section's own, with spaces behind it. Raises MachineError without permission."""
    room = section.size
    if len(content) > room:
        raise ValueError(f"{len(content)} bytes do not fit the {room} of section {section.name}")
    with system_errors(bundle), bundle.open("r+b") as stream:
        stream.seek(section.begin)
        stream.write(content.ljust(room))


def section_digest(bundle: Path, section: Section) -> str:
    """The SHA-256 of a section's bytes, in hex. Raises InputError if `bundle` cannot be read."""
    with _readable(bundle):
        return digest_of(file_pieces(bundle, section.begin, section.end))


def read_llm_metadata(bundle: Path) -> LlmMetadata:
    """The LlmMetadata of a bundle. Raises InputError if `bundle` is no bundle or has none."""
    for section in read_sections(bundle):
        if section.kind == "LlmMetadataProto":
            content = read_section(bundle, section)
            with _readable(bundle):
                return LlmMetadata.FromString(content)
    raise InputError(f"{bundle} holds no language model", hint="Give a bundle with an LlmMetadata section.")


def read_signatures(bundle: Path) -> tuple[str, ...]:
    """The signatures of a bundle's model. Raises InputError if `bundle` is no bundle or has no model."""
    for section in read_sections(bundle):
        if section.kind == "TFLiteModel":
            with (
                _readable(bundle),
                bundle.open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as content,
            ):
                model = tflite_schema.Model.GetRootAs(content, section.begin)
                names = [model.SignatureDefs(i).SignatureKey() for i in range(model.SignatureDefsLength())]
                return tuple(name.decode() for name in names)
    raise InputError(f"{bundle} holds no model", hint="Give a bundle with a TFLiteModel section.")


def _item(section: schema.SectionObject, name: str) -> str:
    """What a section says of itself under `name`; nothing where it does not."""
    items = (kvp_to_dict(section.Items(i)) for i in range(section.ItemsLength()))
    return next((str(item["value"]) for item in items if item["key"] == name), "")


@contextmanager
def _readable(bundle: Path) -> Iterator[None]:
    """Says of a file that readers stumble over that it is broken: InputError, whatever they raise."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read {bundle}: {error.strerror}", hint="Give the path of a .litertlm file."
        ) from error
    # Offsets that lead anywhere, text that is none, sizes beyond any file; messages that are none.
    except (*BROKEN, DecodeError) as error:
        raise InputError(f"{bundle} is broken: {error}", hint="Convert or fetch the file again.") from error


def require_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{size >> 20} MB needed, {free >> 20} MB free")


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    hints: dict[int | None, str] = {
        errno.ENOSPC: "Free some space on that disk or choose another output folder.",
        errno.ENOENT: "Create the output folder first.",
    }
    try:
        yield
    except OSError as error:
        hint = hints.get(error.errno, "Choose an output folder that you may write to.")
        raise MachineError(f"cannot write {path}: {error.strerror}", hint=hint) from error
