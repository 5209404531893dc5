"""A model as its owner gives it: where it comes from, its module, and its weights."""

import importlib.resources
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from autoconvert.errors import InputError, Refused
from autoconvert.source.checkpoint import open_checkpoint
from autoconvert.source.checkpoint_files import CheckpointFiles, checkpoint_files
from autoconvert.source.derivation import Derivation, Renamed
from autoconvert.source.file_state import FileState, state_of
from autoconvert.source.gguf_folder import GgufModel, open_gguf
from autoconvert.source.gguf_parts import SUFFIX, only_model_in, parts_of
from autoconvert.source.header_weights import HeaderWeights
from autoconvert.source.hub import Progress, commit_of, download, fetch_headers
from autoconvert.source.module_weights import ModuleWeights, ties
from autoconvert.source.quantized.decoding import Checkpoint, sources_of, stored_of
from autoconvert.source.skeleton import copy_without_values, is_fake, set_buffer, untie
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights, TensorWeights, Weights
from autoconvert.system.output import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Kind = Literal["hub", "folder", "file", "module", "demo"]
KINDS = get_args(Kind)

DEMO = "demo"
COMPARED_ROWS = 4096


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: an id of the hub, the name of a folder, a file or a module's class, or demo.

    `revision` is the hub's commit, where one is known.
    """

    kind: Kind
    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """A model whose weights are read as needed.

    `name` is for the output folder, `origin` for receipts. `module` is in eval mode and float32; its parameters have
    no values, its buffers do. `weights` reads by the module's names. `folder` holds the tokenizer,
    generation_config.json and the chat template, if there is one; `why_no_tokenizer` says why it holds none, where that
    is known. `is_built` says that the module is what
    its configuration makes, and no more. `checkpoint` has every tensor of the
    checkpoint with its bytes, and `unmatched` why some have no place in the module. `files` are those that hold it, as
    they were when they were opened, `notes` sentences for the summary, and `trusts_code` says whether code that comes
    with the model may run.
    """

    name: str
    module: nn.Module
    weights: Weights
    config: "PreTrainedConfig | None"
    folder: Path | None
    origin: Origin
    is_built: bool = False
    checkpoint: Mapping[str, int] = field(default_factory=dict)
    unmatched: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, FileState] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trusts_code: bool = False
    why_no_tokenizer: str = ""

    @property
    def parameters(self) -> int:
        """How many numbers the module's parameters are, tied ones counted once."""
        return parameter_count(self.module)


def parameter_count(module: nn.Module) -> int:
    """The same of any module."""
    return sum(parameter.numel() for parameter in module.parameters())


def embedding_rows(module: nn.Module) -> int | None:
    """How many tokens a module has an embedding for; None where it does not say which its embedding is."""
    try:
        weight = module.get_input_embeddings().weight  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return int(weight.shape[0]) if getattr(weight, "ndim", 0) == 2 else None


def load_source(
    model: str | Path | nn.Module,
    *,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress = lambda done, total: None,
) -> Source:
    """The model that `model` names: "demo", a local folder or GGUF file, a hub id, or a module itself.

    `progress` is called with bytes done and bytes in all while a model is downloaded.

    A module is copied without its weights and left as it is; they are read from it, so keep it unchanged
    while the source is in use. `revision` and `token` are for the hub. Raises InputError for what is not a
    model or not a whole one, Refused for a module whose buffers are computed from weights, MachineError for a
    hub that cannot be reached.
    """
    if isinstance(model, nn.Module):
        return _from_module(model)
    if model == DEMO:
        folder = Path(str(importlib.resources.files("autoconvert.source") / DEMO))
        return _from_folder(folder, DEMO, Origin("demo", DEMO), trust_remote_code, allow_pickle)
    if not str(model):
        raise InputError("no model is named", hint="pass a folder, a hub id, or demo")
    folder = expanded(model)
    if (is_gguf := folder.suffix == SUFFIX and folder.is_file()) or folder.is_dir():
        if revision is not None:
            raise InputError(
                f"{model}: a {'file' if is_gguf else 'folder'} has no revisions", hint="leave --revision out"
            )
        if is_gguf:
            origin = Origin("file", folder.name, commit_of(folder.parent.resolve()))
            return _from_gguf(folder, parts_of(folder)[0], origin, trust_remote_code)
        name = folder.resolve().name
        origin = Origin("folder", name, commit_of(folder.resolve()))
        if (file := only_model_in(folder)) is not None:
            return _from_gguf(file, name, origin, trust_remote_code)
        return _from_folder(folder, name, origin, trust_remote_code, allow_pickle)
    if isinstance(model, Path) or _is_path(model):
        raise InputError(
            f"{model}: {'neither a folder nor a .gguf file' if folder.exists() else 'no such folder'}",
            hint="pass the folder that holds config.json and the weights, or a .gguf file",
        )
    folder = download(
        model,
        revision=revision,
        token=token,
        remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        progress=progress,
    )
    return _from_folder(folder, model.rpartition("/")[2], _of_hub(model, folder), trust_remote_code, allow_pickle)


def plan_source(
    model: str | Path | nn.Module,
    *,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Source:
    """As `load_source`, but of a hub id only configuration, tokenizer and headers are downloaded: no weight is read."""
    if not isinstance(model, str) or model in ("", DEMO) or _is_path(model):
        return load_source(model, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    folder, headers = fetch_headers(model, revision=revision, token=token, remote_code=trust_remote_code)
    origin = _of_hub(model, folder)
    return _from_folder(folder, model.rpartition("/")[2], origin, trust_remote_code, False, headers)


def _of_hub(model: str, folder: Path) -> Origin:
    return Origin("hub", model, commit_of(folder))


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or Path(model).exists()


def _from_gguf(path: Path, name: str, origin: Origin, trust_remote_code: bool) -> Source:
    opened = open_gguf(path, trust_remote_code)
    with ExitStack() as failed:
        failed.callback(opened.temporary.cleanup)
        source = _from_folder(opened.folder, name, origin, trust_remote_code, False, gguf=opened)
        failed.pop_all()
    # The folder lasts as long as the source.
    weakref.finalize(source.module, opened.temporary.cleanup)
    return source


def _from_folder(
    folder: Path,
    name: str,
    origin: Origin,
    trust_remote_code: bool,
    allow_pickle: bool,
    headers: HeaderWeights | None = None,
    gguf: GgufModel | None = None,
) -> Source:
    # A module in memory converts without transformers; only a folder needs it.
    from autoconvert.source.config import build_module, read_config, read_quantization
    from autoconvert.source.heads import refuse_without_head
    from autoconvert.source.prefix import match
    from autoconvert.source.quantized.formats import decoded, refuse_transposed

    config = read_config(folder, trust_remote_code)
    found = checkpoint_files(folder) if headers is None and gguf is None else CheckpointFiles(())
    files = {folder / name: state_of((folder / name).stat()) for name in found.files}
    stored: StoredWeights
    if gguf is not None:
        files, stored = dict(gguf.checkpoint.files), gguf.checkpoint
    else:
        stored = open_checkpoint(folder, allow_pickle, found) if headers is None else headers
    module = build_module(config, trust_remote_code)
    kinds: tuple[str, ...] = ()
    checkpoint: Checkpoint
    if gguf is not None:
        plan, checkpoint, notes = gguf.match(module)
    else:
        shapes = {tensor: tuple(value.shape) for tensor, value in module.state_dict().items()}
        weights, kinds = decoded(stored, read_quantization(folder), shapes)
        plan, checkpoint, notes = match(module, weights)
        refuse_transposed(module, plan.derivations, checkpoint)
    refuse_without_head(folder / "config.json", config, module, plan)
    if headers is None:
        _untie_what_differs(module, plan.derivations, checkpoint)
        _fill_buffers(module, plan.derivations, checkpoint)
    in_files = stored_of(checkpoint)
    return Source(
        name=name,
        module=module,
        weights=ModuleWeights(module, checkpoint, plan.derivations),
        config=module.config,
        folder=folder,
        origin=origin,
        is_built=True,
        checkpoint={tensor: in_files.nbytes(tensor) for tensor in in_files.names()},
        unmatched={of: why for tensor, why in plan.unmatched.items() for of in sources_of(checkpoint, tensor)},
        files=files,
        notes=found.notes + kinds + notes,
        trusts_code=trust_remote_code,
        why_no_tokenizer=gguf.why_no_tokenizer if gguf is not None else "",
    )


def _from_module(live: nn.Module) -> Source:
    """A source over a module in memory; float16 and bfloat16 become float32, as for a checkpoint."""
    tensors = dict(live.named_parameters(remove_duplicate=False))
    for name, tensor in [*tensors.items(), *live.named_buffers()]:
        if is_fake(tensor):
            raise InputError(f"{type(live).__name__}: {name} has no values", hint="load the module's weights first")
        if tensor.device.type != "cpu":
            raise InputError(
                f"{type(live).__name__}: {name} is on {tensor.device}",
                hint="move the module to the cpu first",
            )
    for name, parameter in tensors.items():
        if parameter.dtype not in FLOAT_DTYPES:
            raise InputError(
                f"{name}: dtype {parameter.dtype} is not supported yet as a weight",
                hint="pass the module before it is quantized",
            )
    module = copy_without_values(live)
    config = getattr(module, "config", None)
    if not hasattr(config, "get_text_config"):
        config = None
    else:
        _compute_in_float32(config)
    weights = TensorWeights(tensors)
    saved = Path(config.name_or_path).expanduser() if config and config.name_or_path else None
    return Source(
        name=saved.name if saved else type(live).__name__,
        module=module,
        weights=ModuleWeights(module, weights, {name: Renamed(name) for name in tensors}),
        config=config,
        folder=saved if saved and saved.is_dir() else None,
        origin=Origin("module", type(live).__name__),
        checkpoint={name: weights.nbytes(name) for name in tensors},
    )


def _compute_in_float32(config: "PreTrainedConfig") -> None:
    """Say float32 in a copied module's configuration too: some modules ask it for their dtype."""
    config.dtype = torch.float32
    for key in config.sub_configs:
        if (sub_config := getattr(config, key, None)) is not None:
            sub_config.dtype = torch.float32


def _untie_what_differs(module: nn.Module, derivations: Mapping[str, Derivation], checkpoint: Weights) -> None:
    """Where a checkpoint holds different values for tied names it is right, as in from_pretrained."""
    for group in ties(module):
        held = [name for name in group if name in derivations]
        for name in held[1:]:
            if not _equal(derivations[held[0]], derivations[name], checkpoint):
                untie(module, name)
                if module.get_parameter(name) is module.get_parameter(held[0]):
                    raise InputError(
                        f"{held[0]} and {name} are one tensor in the module but differ in the checkpoint",
                        hint="check that config.json and the code belong to this checkpoint",
                    )


def _equal(one: Derivation, other: Derivation, checkpoint: Weights) -> bool:
    if one.sources == other.sources:
        return True
    shape = one.shape(checkpoint)
    if shape != other.shape(checkpoint):
        return False
    if not shape:
        return torch.equal(one.read(checkpoint).float(), other.read(checkpoint).float())
    rows = shape[0]
    return all(
        torch.equal(
            one.read_rows(checkpoint, start, min(start + COMPARED_ROWS, rows)).to(torch.float32),
            other.read_rows(checkpoint, start, min(start + COMPARED_ROWS, rows)).to(torch.float32),
        )
        for start in range(0, rows, COMPARED_ROWS)
    )


def _fill_buffers(module: nn.Module, derivations: Mapping[str, Derivation], checkpoint: Weights) -> None:
    """Give buffers the checkpoint's values; the others keep what the module computed, and must have one."""
    for name, buffer in list(module.named_buffers()):
        if derivation := derivations.get(name):
            value = derivation.read(checkpoint)
            if value.shape != buffer.shape:
                raise InputError(
                    f"{name}: the checkpoint has shape {list(value.shape)}, the module {list(buffer.shape)}",
                    hint="check that config.json belongs to this checkpoint",
                )
            set_buffer(module, name, value.to(buffer.dtype))
        elif is_fake(buffer):
            raise Refused(
                f"{name}: this buffer is not in the checkpoint and is computed from weights",
                hint="save it with the checkpoint: register it with persistent=True",
            )
