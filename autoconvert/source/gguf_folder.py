"""A GGUF file as a model: its parts, and a folder with the configuration and the tokenizer that it describes."""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoconvert.errors import InputError, MachineError
from autoconvert.source.gguf_parts import parts_of, refuse_without_all_parts

if TYPE_CHECKING:
    from torch import nn

    from autoconvert.source.conversion import Plan
    from autoconvert.source.gguf_file import GgufCheckpoint
    from autoconvert.source.gguf_header import Header

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_OF_TOKENIZERS = (
    *_TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)

_ENDS = ("eos", "eot", "eom")
_STAND_IN = "settings.gguf"
_ORIGINAL = "pass the original Hugging Face checkpoint, or write the file again from it"


@dataclass(frozen=True)
class GgufModel:
    """A file, in one part or several, with what transformers makes of its settings.

    `folder` has config.json and the tokenizer, if there is one, or else `why_no_tokenizer` says why not; it goes with
    `temporary`. `is_stated` says that the configuration is not of the file but lay beside it.
    """

    path: Path
    checkpoint: "GgufCheckpoint"
    settings: Mapping[str, Any]
    temporary: "tempfile.TemporaryDirectory[str]"
    is_stated: bool
    why_no_tokenizer: str
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return Path(self.temporary.name)

    def match(self, module: "nn.Module") -> "tuple[Plan, GgufCheckpoint, tuple[str, ...]]":
        """How the tensors of `module`, which was built of the configuration, are made of which, and what to say of it.

        Raises:
            InputError: the file says another thing than the configuration, or a tensor of it has no place.
        """
        from transformers import PreTrainedModel

        from autoconvert.source.conversion import IGNORED
        from autoconvert.source.gguf_facts import CONFIG_HINT, refuse_other_settings, scale_frequencies
        from autoconvert.source.gguf_names import plan_gguf

        assert isinstance(module, PreTrainedModel)
        header = self.checkpoint.header
        refuse_other_settings(self.path, header, module.config, self.is_stated)
        plan = plan_gguf(module, self.checkpoint, header.architecture, self.settings)
        computed = scale_frequencies(self.path, self.checkpoint, module)
        for name, reason in plan.unmatched.items():
            if name not in computed and reason != IGNORED:
                raise InputError(
                    f"{self.path}: tensor {name} has no place in {type(module).__name__}: {reason}",
                    hint=_ORIGINAL if self.is_stated else f"{CONFIG_HINT}, or {_ORIGINAL}",
                )
        return plan, self.checkpoint, self.notes


def open_gguf(path: Path, trust_remote_code: bool = False) -> GgufModel:
    """The model in the file at `path`, or in it and its other parts; no number of it is read.

    Files of the original model beside it come first: config.json with generation_config.json, and the tokenizer's.

    Raises:
        InputError: it is no whole GGUF file, a part is missing, or transformers does not know its architecture.
        MachineError: it cannot be read, or there is no room for a temporary folder.
    """
    if find_spec("gguf") is None:
        raise InputError(f"{path}: the package that decodes GGUF is not installed", hint="pip install gguf")
    # A module in memory and a folder of safetensors need none of it.
    from autoconvert.source.gguf_file import GgufCheckpoint

    checkpoint = GgufCheckpoint(parts_of(path)[1])
    refuse_without_all_parts(path, checkpoint)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="autoconvert-", ignore_cleanup_errors=True)
    except OSError as error:
        raise MachineError(f"no temporary folder: {error.strerror}", hint="set TMPDIR to a folder with room") from error
    with ExitStack() as failed:
        failed.callback(temporary.cleanup)
        model = _described(path, checkpoint, temporary, trust_remote_code)
        failed.pop_all()
        return model


def _described(
    path: Path,
    checkpoint: "GgufCheckpoint",
    temporary: "tempfile.TemporaryDirectory[str]",
    trust_remote_code: bool,
) -> GgufModel:
    """The model, when its folder holds what there is to know of it."""
    from autoconvert.source.config import read_config

    folder, beside = Path(temporary.name), path.parent
    settings = _settings(path, checkpoint, folder)
    if is_stated := (beside / _CONFIG).is_file():
        read_config(beside, trust_remote_code)
        _copy(beside, folder, (_CONFIG, _GENERATION, *(["*.py"] if trust_remote_code else [])))
    else:
        _write_config(checkpoint.header, settings, folder)
    if has_tokenizer := any((beside / name).is_file() for name in _TOKENIZERS):
        _copy(beside, folder, _OF_TOKENIZERS)
    why = "" if has_tokenizer else _write_tokenizer(parts_of(path)[1][0], checkpoint.header, folder)
    notes = tuple(_notes(path, checkpoint, is_stated, has_tokenizer, why))
    return GgufModel(path, checkpoint, settings, temporary, is_stated, why, notes)


def _notes(
    path: Path, checkpoint: "GgufCheckpoint", is_stated: bool, has_tokenizer: bool, why_no_tokenizer: str
) -> Iterator[str]:
    counts = ", ".join(f"{count} of {kind}" for kind, count in checkpoint.types().most_common())
    yield f"GGUF: {path.name} has {counts.replace(' of ', ' tensors of ', 1)}"
    beside = [*([_CONFIG] if is_stated else []), *(["the tokenizer's"] if has_tokenizer else [])]
    if beside:
        yield f"files beside it came first: {' and '.join(beside)}"
    if not is_stated:
        yield "its configuration is what transformers makes of its settings; a config.json beside it would come first"
    if why_no_tokenizer:
        yield f"no bundle can be written: {why_no_tokenizer}"


def _settings(path: Path, checkpoint: "GgufCheckpoint", folder: Path) -> dict[str, Any]:
    """What transformers makes of the settings of a file: the fields of a configuration.

    It reads a stand-in without the vocabulary, which it would hold in memory token by token.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, __version__

    from autoconvert.source.gguf_header import AGAIN, TOKENS, stand_in

    header = checkpoint.header
    layers = header.settings.get(f"{header.architecture}.block_count", 0)
    if isinstance(layers, int) and layers > len(checkpoint.names()):
        # Before a module of so many is built.
        raise InputError(f"{path}: {layers} layers, and only {len(checkpoint.names())} tensors", hint=AGAIN)
    (folder / _STAND_IN).write_bytes(stand_in(header, checkpoint.names()))
    try:
        read, _ = PreTrainedConfig.get_config_dict(str(folder), gguf_file=_STAND_IN, local_files_only=True)
        settings: dict[str, Any] = json.loads(json.dumps(read))
    except Exception as error:
        raise InputError(
            f"{path}: transformers {__version__} cannot read its architecture {header.architecture!r} ({_line(error)})",
            hint="update transformers, or pass the original Hugging Face checkpoint",
        ) from error
    finally:
        (folder / _STAND_IN).unlink()
    settings.pop("_model_name_or_path", None)
    stated, tokens = header.settings.get(f"{header.architecture}.vocab_size"), header.settings.get(TOKENS)
    if size := next((each for each in (stated, tokens) if isinstance(each, int)), None):
        settings["vocab_size"] = size
    kind = settings.get("model_type")
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"{path}: transformers {__version__} has no causal language model for its architecture "
            f"{header.architecture!r}",
            hint="pass a causal (decoder-only) language model",
        )
    return settings


def _write_config(header: "Header", settings: Mapping[str, Any], folder: Path) -> None:
    """`settings` as config.json, and all tokens that end an answer as generation_config.json."""
    (folder / _CONFIG).write_text(json.dumps(settings, indent=1))
    declared = settings.get("eos_token_id")
    named = [header.settings.get(f"tokenizer.ggml.{end}_token_id") for end in _ENDS]
    ends = [*(declared if isinstance(declared, list) else [declared]), *named]
    tokens = list(dict.fromkeys(end for end in ends if isinstance(end, int) and end < settings.get("vocab_size", 0)))
    if tokens:
        (folder / _GENERATION).write_text(json.dumps({"eos_token_id": tokens}))


def _write_tokenizer(path: Path, header: "Header", folder: Path) -> str:
    """The tokenizer that a file describes as tokenizer.json, with its chat template; gives the reason for none."""
    from transformers import PreTrainedTokenizerFast

    from autoconvert.source.gguf_header import TOKENS

    if TOKENS not in header.settings:
        return f"{path.name} describes no tokenizer"
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            str(path.parent), gguf_file=path.name, local_files_only=True
        )
        tokenizer.save_pretrained(folder)
    except Exception as error:
        kind = header.settings.get("tokenizer.ggml.model")
        return f"transformers makes no tokenizer of {path.name}, which has one for {kind!r} ({_line(error)})"
    return ""


def _copy(source: Path, folder: Path, patterns: Collection[str]) -> None:
    for file in (file for pattern in patterns for file in source.glob(pattern)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
