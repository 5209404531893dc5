"""What is settled before anything is traced, the same for a plan and for a conversion."""

from pathlib import Path

from torch import Tensor, nn

from autoconvert.driver.needs import Needs, refuse_what_cannot_fit
from autoconvert.driver.settings import Settings
from autoconvert.errors import InputError
from autoconvert.packaging.rows import within_rows
from autoconvert.packaging.tokenizer import TokenizerSpec, read_json, read_tokenizer
from autoconvert.source.source import Source
from autoconvert.source.token_ids import check_token_ids
from autoconvert.system.output import expanded, refuse_folders_in_the_way

REPORT = "report.json"
# What the default folder is called where the model's own folder has its name already.
_SUFFIX = "-litert"


def tokenizer_of(source: Source, settings: Settings) -> TokenizerSpec | None:
    """The tokenizer that a bundle needs; None where none is asked for.

    Raises:
        InputError: there is none, it cannot be loaded, or what says which tokens end a text is no number.
        Refused: the runtime has no form of it.
    """
    if "litertlm" not in settings.formats:
        return None
    if source.folder is None:
        raise InputError(
            "A .litertlm bundle needs a tokenizer, and a module in memory has none.",
            hint="Choose --format tflite (formats=('tflite',)), or convert a folder that holds the tokenizer.",
        )
    check_token_ids(source.folder)
    try:
        tokenizer = read_tokenizer(source.folder, trust_remote_code=source.trusts_code)
    except InputError as error:
        if source.trusts_code or not _tokenizer_has_code(source.folder):
            raise
        raise InputError(
            f"the tokenizer in {source.folder} comes with code of its own",
            hint="read that code, then pass --trust-remote-code to run it, or ask for --format tflite",
        ) from error
    rows = _embedding_rows(source.module)
    return tokenizer if rows is None else within_rows(tokenizer, rows)


def _tokenizer_has_code(folder: Path) -> bool:
    try:
        auto_map = read_json(folder / "tokenizer_config.json").get("auto_map")
    except InputError:
        return False
    return isinstance(auto_map, dict) and "AutoTokenizer" in auto_map


def _embedding_rows(module: nn.Module) -> int | None:
    """How many tokens the model knows; None for a module that does not say which part embeds them."""
    try:
        embedding = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None  # type: ignore[operator]
    except NotImplementedError:
        return None
    weight = getattr(embedding, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else None


def target_folder(source: Source, output: str | Path | None) -> Path:
    """Where the files go: what was chosen, else the model's name, but never into the folder that it came from."""
    if output is not None:
        return expanded(output)
    target = Path(source.name or "model")
    if source.folder is not None and target.exists() and target.samefile(source.folder):
        return target.with_name(target.name + _SUFFIX)
    return target


def refuse_what_cannot_be_written(needs: Needs, settings: Settings, target: Path) -> None:
    """Raise MachineError where folders have the names of files to write, or where disk or memory do not suffice."""
    refuse_folders_in_the_way(target, [*(f"model.{name}" for name in settings.formats), REPORT])
    refuse_what_cannot_fit(needs, target)
