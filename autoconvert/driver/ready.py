"""What is settled before anything is traced, the same for a plan and for a conversion."""

from dataclasses import dataclass
from pathlib import Path

from autoconvert.check.grade import Grading
from autoconvert.driver.failure import Asked
from autoconvert.driver.needs import Needs, needs_of, refuse_what_cannot_fit
from autoconvert.driver.settings import Settings, choose
from autoconvert.errors import InputError
from autoconvert.packaging.tokenizer import TokenizerSpec, read_tokenizer
from autoconvert.runtime.stub import STUB
from autoconvert.source.source import Source, embedding_rows
from autoconvert.source.token_ids import check_token_ids
from autoconvert.system.output import expanded, refuse_folders_in_the_way

REPORT = "report.json"
# What the default folder is called where the model's own folder has its name already.
_SUFFIX = "-litert"


@dataclass(frozen=True)
class Ready:
    """A source to be converted as `settings` say, what a bundle reads texts with, and what all that takes."""

    source: Source
    settings: Settings
    tokenizer: TokenizerSpec | None
    needs: Needs
    grading: Grading


def ready(source: Source, asked: Asked) -> Ready:
    """`source` to be converted as was `asked`.

    Raises InputError and Refused as `choose` and `tokenizer_of`.
    """
    settings = choose(
        source.config,
        context=asked.context,
        prefill=asked.prefill,
        quantize=asked.quantize,
        formats=asked.formats,
        verify=asked.verify,
    )
    if asked.grading.is_asked_for and not _is_graded(settings):
        raise InputError(
            "Only what is rounded and checked, and has a tokenizer, can be graded.",
            hint="Choose --format litertlm, another --quantize than none, and leave --verify off out.",
        )
    return Ready(source, settings, tokenizer_of(source, settings), needs_of(source, settings), asked.grading)


def _is_graded(settings: Settings) -> bool:
    return "litertlm" in settings.formats and settings.verify != "off" and not settings.quantize.exact


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
    if source.why_no_tokenizer:
        raise InputError(
            f"A .litertlm bundle needs a tokenizer: {source.why_no_tokenizer}",
            hint="Choose --format tflite (formats=('tflite',)), or put the model's tokenizer.json beside the file.",
        )
    check_token_ids(source.folder)
    rows = embedding_rows(source.module)
    return read_tokenizer(source.folder, trust_remote_code=source.trusts_code, rows=rows, trial=STUB)


def target_folder(source: Source, output: str | Path | None) -> Path:
    """Where the files go: what was chosen, else the model's name, but never into the folder that it came from."""
    if output is not None:
        return expanded(output)
    target = Path(source.name or "model")
    folders = {file.parent for file in source.files} | ({source.folder} if source.folder is not None else set())
    if target.exists() and any(target.samefile(folder) for folder in folders):
        return target.with_name(target.name + _SUFFIX)
    return target


def refuse_what_cannot_be_written(needs: Needs, settings: Settings, target: Path) -> None:
    """Raise MachineError where folders have the names of files to write, or where disk or memory do not suffice."""
    refuse_folders_in_the_way(target, [*(f"model.{name}" for name in settings.formats), REPORT])
    refuse_what_cannot_fit(needs, target)
