"""A conversion from end to end: a model is read and made ready, converted, and what a failed check needs is kept."""

import time
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autoconvert.check.grade import Grading
from autoconvert.driver.compile import Stages
from autoconvert.driver.convert_source import Bundle, converted
from autoconvert.driver.failure import Asked
from autoconvert.driver.keep_failure import Failed, keep_failure
from autoconvert.driver.library import libraries
from autoconvert.driver.ready import ready, refuse_what_cannot_be_written, target_folder
from autoconvert.errors import CheckFailed, InputError
from autoconvert.packaging.tokenizer_section import forget_parsed
from autoconvert.quantization.choices import DEFAULT
from autoconvert.quantization.recipe import Recipe
from autoconvert.quantization.recipe_file import recipe_of
from autoconvert.quantization.recipes import RECIPES
from autoconvert.report.progress import Display, Silent, Stage, Timeline
from autoconvert.report.readable import readable_size
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.read_ahead import read_ahead
from autoconvert.source.source import Source, load_source
from autoconvert.system.memory import trim
from autoconvert.system.output import expanded

__all__ = ["Bundle", "convert", "read_source"]


def convert(
    model: str | Path | nn.Module,
    output: str | Path | None = None,
    *,
    quantize: str | Path | Recipe = DEFAULT,
    context: int | None = None,
    prefill: Sequence[int] | None = None,
    formats: Sequence[str] = ("litertlm",),
    verify: str = "quick",
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    cache: bool = True,
    patterns: Sequence[str | Path | Pattern] = (),
    grade_text: str | Path | None = None,
    max_kl: float | None = None,
    target_size: int | None = None,
    allow_bad_grade: bool = False,
    dump: str | Path | None = None,
    display: Display | None = None,
    stages: Stages | None = None,
) -> Bundle:
    """Converts `model` ("demo", a folder, a .gguf, a hub id, or a module from tokens to logits) into `output` (./NAME).

    `quantize` names one of RECIPES or a recipe's JSON file, or is a recipe itself. What is rounded is graded by the
    text in the file `grade_text`, or by one that ships, and a bad grade is an error unless `allow_bad_grade`. For a
    divergence of at most `max_kl`, in nats a token, or a file of `target_size` bytes, what is most sensitive is stored
    finer, or what is least so coarser. With `cache`, what was compiled before for the same
    configuration and lengths is only linked. `patterns`, files or patterns themselves, are tried before those of
    installed packages and the built-in ones. With `dump`, a folder, all is compiled anew, and what every pass made lies
    there afterwards, also where the conversion ends in an error.

    A failed check leaves a folder beside `output`, the `folder` of the exception, by which `reproduce` makes it again.

    Raises:
        InputError: the model, its checkpoint, a pattern or the options are not usable.
        Refused: something in the model is not proven to convert.
        CheckFailed: the result differs from the model.
        BadGrade: it is the model, but rounding costs more than is allowed.
        MachineError: disk, memory, access or network.
    """
    begun = time.monotonic()
    timeline = Timeline(display or Silent())
    outside = libraries(patterns)
    asked = Asked(
        model,
        quantize if quantize in RECIPES else recipe_of(quantize),
        context,
        prefill,
        tuple(formats),
        verify,
        revision,
        trust_remote_code,
        allow_pickle,
        tuple(patterns),
        Grading(None if grade_text is None else _read_text(expanded(grade_text)), max_kl, target_size, allow_bad_grade),
    )
    with timeline.stage("read model") as stage:
        source = read_source(model, stage, revision, token, trust_remote_code, allow_pickle)
        prepared = ready(source, asked)
        # Reading a tokenizer takes many times what stays of it.
        forget_parsed()
        trim()
    target = target_folder(source, output)
    refuse_what_cannot_be_written(prepared.needs, prepared.settings, target)
    try:
        return converted(prepared, outside, target, timeline, stages, cache=cache, dump=dump)
    except CheckFailed as failure:
        seconds = time.monotonic() - begun
        keep_failure(Failed(failure, source, asked, outside, stages, target, seconds), timeline)
        raise


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint="Give a text to grade by.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error})", hint="Save the text as UTF-8.") from error


def read_source(
    model: str | Path | nn.Module,
    stage: Stage,
    revision: str | None,
    token: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> Source:
    """The source that `model` names, read while `stage` tells how far."""
    if not isinstance(model, nn.Module) and (place := expanded(model)).exists():
        read_ahead(place)
    source = load_source(
        model,
        revision=revision,
        token=token,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        progress=stage.advance,
    )
    stage.note = f"{len(source.checkpoint)} tensors, {readable_size(sum(source.checkpoint.values()))}"
    return source
