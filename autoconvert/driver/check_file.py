"""A file beside the model that it is said to be, whoever made it: a verdict for each layer."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from torch import nn

from autoconvert.check.bundle import SAME_CONSTANTS, SAME_NUMBERS, Spoken, room_for_chat, spoken
from autoconvert.check.constant_types import Described, describe
from autoconvert.check.contract import verdict_of
from autoconvert.check.expected import Expected
from autoconvert.check.foreign import ForeignCheck
from autoconvert.check.foreign_texts import TextCheck
from autoconvert.check.parity import reference_of
from autoconvert.check.plan import asks_all_prompts
from autoconvert.check.receipt import verdict_of_receipt
from autoconvert.check.verdict import (
    CONTRACT,
    FRAMING,
    LAYERS,
    NUMBER_LAYERS,
    QUANTISATION,
    RECEIPT,
    TEXT_LAYERS,
    TOKENIZER,
    Verdict,
    failed,
    not_checked,
)
from autoconvert.driver.convert import read_source
from autoconvert.driver.needs import why_not_run
from autoconvert.driver.settings import default_context
from autoconvert.errors import CheckFailed, InputError, MachineError, Refused
from autoconvert.ir.interface import Role
from autoconvert.lowering.cpu import CPU
from autoconvert.packaging.litertlm import MAGIC, Section, copy_section, read_llm_metadata, read_sections
from autoconvert.packaging.tokenizer import TokenizerSpec, read_tokenizer
from autoconvert.report.progress import Display, Silent, Timeline
from autoconvert.report.readable import readable_size
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.open_shapes import rows_by_position
from autoconvert.runtime.packed_weights import packed_weights
from autoconvert.runtime.runner import Runner, open_signatures
from autoconvert.runtime.stub import STUB
from autoconvert.source.source import Source, embedding_rows

_DECODER = "prefill_decode"


def check_file(
    file: str | Path,
    model: str | Path | nn.Module,
    *,
    verify: str = "quick",
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    display: Display | None = None,
) -> list[Verdict]:
    """Compares `file`, a `.tflite` or `.litertlm`, with `model`, named as for `convert`.

    Gives a verdict for each of LAYERS, in their order; with `verify` "full" texts are read to the end of the context.
    A file that is wrong or broken raises nothing: layers of it fail.

    Raises:
        InputError: there is no such file, it is of a kind that is not supported, or `model` or `verify` is not usable.
        Refused: the model's weights cannot be told.
        MachineError: disk, memory, access or network.
    """
    path = Path(file).expanduser()
    if verify not in ("quick", "full"):
        raise InputError(f"there is no verify={verify!r}", hint="Choose quick or full.")
    kind = _kind(path)
    timeline = Timeline(display or Silent())
    with timeline.stage("read model") as stage:
        source = read_source(model, stage, revision, token, trust_remote_code, allow_pickle)
    with ExitStack() as stack:
        check = _Check(path, source, timeline, stack, thorough=verify == "full", trust_remote_code=trust_remote_code)
        check.run(kind)
    return [check.found[layer] for layer in LAYERS]


def _kind(path: Path) -> str:
    """What the first bytes say that a file is. Raises InputError where there is none, or it is a `.task`."""
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}", hint="Give the path of a .litertlm or .tflite file.")
    with path.open("rb") as stream:
        begin = stream.read(len(MAGIC))
    if path.suffix == ".task" or begin[:4] == b"PK\3\4":
        raise InputError(f"{path}: a .task is not supported yet", hint="Give a .litertlm or .tflite file.")
    return "litertlm" if begin == MAGIC else "tflite" if begin[4:] == b"TFL3" else ""


@dataclass(frozen=True)
class _Opened:
    """A file that keeps the contract."""

    runner: Runner
    described: Described


@dataclass
class _Check:
    """One file under check: verdicts are `found` by layer, what is opened is closed by `stack`."""

    path: Path
    source: Source
    timeline: Timeline
    stack: ExitStack
    thorough: bool
    trust_remote_code: bool
    found: dict[str, Verdict] = field(default_factory=dict)
    # Of tables that positions look up.
    rows: int | None = None

    def run(self, kind: str) -> None:
        if not kind:
            self._give_up(LAYERS[1:], "there is no model to run")
            self._add(failed(CONTRACT, f"{self.path} is neither a .litertlm nor a .tflite"))
        elif kind == "tflite":
            self._give_up((*TEXT_LAYERS, RECEIPT), "a .tflite has none")
            if (opened := self._opened(self.path)) is not None:
                self._numbers(opened, None, None)
        else:
            self._bundle()

    def _bundle(self) -> None:
        try:
            sections = read_sections(self.path)
            context = int(read_llm_metadata(self.path).max_num_tokens) or None
        except InputError as error:
            self._give_up(LAYERS[1:], "the bundle cannot be read")
            self._add(failed(CONTRACT, error.message))
            return
        with self.timeline.stage("check receipt"):
            self._add(verdict_of_receipt(self.path, sections, self.source))
        model = self._model(sections)
        opened = self._opened(model) if model is not None else None
        texts = self._texts(context or 0, opened, sum(section.size for section in sections if section.model))
        if opened is None:
            return
        prompts = self._numbers(opened, texts, context)
        # Where it reads other tokens, what it makes of them says nothing.
        wrong = any(self.found[layer].outcome == "failed" for layer in (TOKENIZER, FRAMING))
        if texts is None or not prompts or wrong:
            return
        with self.timeline.stage("check prompts"):
            asked = texts.prompts(prompts, SAME_NUMBERS if opened.described.exact else SAME_CONSTANTS)
        before = self.found[CONTRACT]
        self._add(asked if asked.outcome == "failed" else replace(before, detail=f"{before.detail}; {asked.detail}"))

    def _texts(self, context: int, opened: "_Opened | None", weights: int) -> TextCheck | None:
        """Judges what concerns text alone; a file that is not run is not asked to answer a chat either.

        The engine packs so many bytes of `weights` again.
        """
        if reason := why_not_run(weights):
            self._give_up(TEXT_LAYERS, reason)
            return None
        try:
            with self.timeline.stage("read tokenizer"):
                tokenizer = self._tokenizer()
        except (InputError, Refused) as error:
            self._give_up(TEXT_LAYERS, f"the model's own tokenizer: {error.message}")
            return None
        runner = None if opened is None else opened.runner
        room = 0 if runner is None else room_for_chat(self._limit(runner, context), runner.prefill_lengths)
        texts = TextCheck(self.path, self.stack.enter_context(packed_weights()), tokenizer, room)
        with self.timeline.stage("check texts"):
            for verdict in texts.verdicts():
                self._add(verdict)
        return texts

    def _tokenizer(self) -> TokenizerSpec:
        if self.source.folder is None:
            raise InputError("a module in memory has none")
        rows = embedding_rows(self.source.module)
        return read_tokenizer(self.source.folder, trust_remote_code=self.trust_remote_code, rows=rows, trial=STUB)

    def _model(self, sections: Sequence[Section]) -> Path | None:
        """The bundle's decoder as a file of its own, for as long as the check lasts; None where none can be run."""
        decoders = [section for section in sections if _DECODER in section.model.lower()]
        others = sorted({s.model or s.kind for s in sections if s.kind.startswith("TFLite") and s not in decoders})
        if len(decoders) != 1 or others:
            what = f"{len(decoders)} sections of type {_DECODER}" + f" beside {', '.join(others)}" * bool(others)
            self._give_up((CONTRACT, *NUMBER_LAYERS), f"a model of {what} is not run here")
            return None
        # A copy, and the weights that the runtime packs.
        if reason := why_not_run(2 * decoders[0].size):
            self._give_up((CONTRACT, *NUMBER_LAYERS), reason)
            return None
        path = self._folder() / "model.tflite"
        copy_section(self.path, decoders[0], path)
        return path

    def _opened(self, path: Path) -> "_Opened | None":
        """The file, to be run, where it keeps the contract."""
        try:
            described = describe(path)
            if (free := psutil.virtual_memory().available) < described.largest:
                needs = f"needs {readable_size(described.largest)} of memory for a tensor, has {readable_size(free)}"
                self._give_up((CONTRACT, *NUMBER_LAYERS), f"not run: {needs}")
                return None
            if reason := why_not_run(path.stat().st_size):
                self._give_up((CONTRACT, *NUMBER_LAYERS), reason)
                return None
            with self.timeline.stage("open file"):
                types, run, reset = self.stack.enter_context(open_signatures(path))
            self.rows = rows_by_position(path, CPU.port_names[Role.INPUT_POS])
        except (CheckFailed, RuntimeFailed) as error:
            self._give_up(NUMBER_LAYERS, "the file cannot be opened")
            self._add(failed(CONTRACT, error.message))
            return None
        verdict = verdict_of(types)
        self._add(verdict)
        if verdict.outcome != "passed":
            self._give_up(NUMBER_LAYERS, "the contract is not kept" if verdict.outcome == "failed" else verdict.detail)
            return None
        return _Opened(Runner(types, run, reset), described)

    def _folder(self) -> Path:
        """A temporary folder that lasts as long as the check."""
        try:
            return Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="autoconvert-")))
        except OSError as error:
            hint = "Set TMPDIR to a folder with as much room as the file, twice for a bundle."
            raise MachineError(f"no temporary folder for the file's weights: {error.strerror}", hint=hint) from error

    def _numbers(self, opened: "_Opened", texts: TextCheck | None, context: int | None) -> list[Spoken]:
        """Judges what the file computes; gives what it says of the prompts that the runtime is then asked."""
        runner = opened.runner
        limit = self._limit(runner, context)
        with reference_of(self.source) as reference:
            width = int(reference([0]).shape[-1])
            if width != runner.vocabulary:
                self._add(failed(CONTRACT, f"the file gives {runner.vocabulary} logits, the model {width}"))
                self._give_up(NUMBER_LAYERS, "the file is of another vocabulary")
                return []
            rounded = Expected(self.source).rounded
            for verdict in self._run(ForeignCheck(runner, opened.described, reference, rounded, limit, self.thorough)):
                self._add(verdict)
        if texts is None:
            return []
        try:
            thorough = self.thorough or asks_all_prompts(self.source.parameters)
            return spoken(runner, limit, texts.tokenizer, thorough=thorough)
        except InputError:
            # Neither a context without room for a prompt nor a file that dies says more than is known by now.
            return []

    def _limit(self, runner: Runner, context: int | None) -> int:
        """How many positions a text may have: a file whose states follow the history does not say it itself."""
        limits = (runner.capacity, context, self.rows)
        return min((limit for limit in limits if limit), default=default_context(self.source.config))

    def _run(self, check: ForeignCheck) -> Iterator[Verdict]:
        verdicts = check.verdicts()
        for layer in NUMBER_LAYERS:
            with self.timeline.stage(f"check {layer.split()[0]}") if layer != QUANTISATION else nullcontext():
                verdict = next(verdicts)
            yield verdict

    def _give_up(self, layers: Sequence[str], why: str) -> None:
        for layer in layers:
            self._add(not_checked(layer, why))

    def _add(self, verdict: Verdict) -> None:
        self.found[verdict.layer] = verdict
