"""From compiled graphs to files: the weights are linked in, the file is checked, bundled, and the bundle checked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from autoconvert.check.bundle import SAME_CONSTANTS, SAME_NUMBERS, Spoken, check_bundle, room_for_chat, spoken
from autoconvert.check.constants import check_constants
from autoconvert.check.deployment import check_linked_file
from autoconvert.check.expected import Expected
from autoconvert.check.grade import Grade, Grading, grade, refuse_bad
from autoconvert.check.plan import Plan, asks_all_prompts, plan
from autoconvert.driver.compilation import Compilation
from autoconvert.driver.compile import Stages
from autoconvert.driver.graded_text import text_to_grade
from autoconvert.driver.library import Library, in_order, unmatched
from autoconvert.driver.localize import localized
from autoconvert.driver.needs import Needs, why_not_run
from autoconvert.driver.ready import REPORT
from autoconvert.driver.receipts import Receipts
from autoconvert.driver.settings import Settings, as_data
from autoconvert.errors import CheckFailed
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import mapped_model, signatures_by_subgraph
from autoconvert.lowering.link import Linked, link
from autoconvert.packaging.litertlm import write_bundle
from autoconvert.packaging.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.packaging.receipt import room_for
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.report.check_result import BUNDLE, CONSTANTS, FILE, CheckResult
from autoconvert.report.progress import Timeline
from autoconvert.report.readable import readable_size
from autoconvert.report.report import Report, make_report, write_report
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.packed_weights import hand_over, packed_weights
from autoconvert.runtime.partitions import in_words, partitions_of
from autoconvert.runtime.runner import Runner, start_file
from autoconvert.source.accounting import Row, account
from autoconvert.source.source import Source
from autoconvert.system.memory import freed_at_once, give_back
from autoconvert.system.threads import threads

if TYPE_CHECKING:
    from autoconvert.dump.dump import Dump


def reading_plan(source: Source, settings: Settings, compiled: Compiled) -> Plan:
    """What the check of the file reads."""
    context = min(settings.context, compiled.capacity)
    return plan(compiled, context, source.parameters, thorough=settings.verify == "full")


@dataclass
class LinkAndCheck:
    """What follows compiling; each method is a stage and writes into `folder`.

    `tokenizer` is the source's, `bundled` is written: the same one, but for a test.
    """

    source: Source
    settings: Settings
    needs: Needs
    grading: Grading
    tokenizer: TokenizerSpec | None
    bundled: TokenizerSpec | None
    timeline: Timeline
    folder: Path
    stages: Stages
    outside: Sequence[Library]
    expected: Expected
    receipts: Receipts
    dump: "Dump | None" = None
    checks: list[CheckResult] = field(default_factory=list)
    grade: Grade | None = None

    def __post_init__(self) -> None:
        if self.dump is not None:
            self.checks = self.dump.checks

    def run(self, compilation: Compilation) -> tuple[dict[str, Path], Report]:
        """The files by format, those that were asked for and the report.

        Raises CheckFailed where one differs from the model.
        """
        compiled = compilation.compiled
        rows = account(self.source, compiled.sources)
        linked = self._link(compiled)
        self.receipts.hash_model(linked.path)
        with freed_at_once():
            files = self._checked_files(compilation, linked, rows)
        receipt = self.receipts.written(self.settings, rows, self.checks, linked.size, files.get("litertlm"))
        files = {name: file for name, file in files.items() if name in self.settings.formats}
        report = make_report(
            self.source.name,
            as_data(self.settings),
            compiled.fusion,
            compiled.states,
            linked,
            rows,
            files,
            self.timeline.stages,
            self.checks,
            self._notes(compiled, linked),
            self.grade,
            receipt,
        )
        files["report"] = write_report(report, self.folder / REPORT)
        return files, report

    def _notes(self, compiled: Compiled, linked: Linked) -> tuple[str, ...]:
        of_tokenizer = self.tokenizer.notes if self.tokenizer else ()
        kept = f"{linked.kept:.1%} of the numbers lie on a grid of the checkpoint's, and were not rounded again"
        return (
            *self.source.notes,
            *([kept] if linked.kept else []),
            *of_tokenizer,
            *compiled.notes,
            *unmatched(self.outside, compiled.fusion.patterns),
        )

    def _checked_files(self, compilation: Compilation, linked: Linked, rows: Sequence[Row]) -> dict[str, Path]:
        """The file, checked, and the bundle where there is a tokenizer, checked too."""
        compiled = compilation.compiled
        files = {"tflite": linked.path}
        prompts: list[Spoken] = []
        with packed_weights() as packed:
            if self.settings.verify != "off":
                self.checks.extend(compilation.checks)
                prompts = self._checked_file(linked, compiled, packed)
            if self.tokenizer is not None and self.bundled is not None:
                draft = self.receipts.drafted(self.settings, rows, self.checks)
                bundle = files["litertlm"] = self._bundle(linked, compiled, self.bundled, room_for(draft))
                if prompts:
                    hand_over(packed, bundle)
                    self._check_bundle(bundle, packed, self.tokenizer, prompts)
        return files

    def _checked_file(self, linked: Linked, compiled: Compiled, packed: Path) -> list[Spoken]:
        """Checks the file, and gives what it says of the prompts that the bundle is then asked; none if it is not run.

        The folder `packed` then has the weights as the runtime packs them.
        """
        reason = why_not_run(self.needs.scratch)
        with nullcontext() if reason else start_file(linked.path, packed) as start:
            # The other core opens the file. What was taken so far goes back before the checks need it.
            give_back()
            with threads(1):
                self._check_constants(linked, compiled)
            if start is not None:
                prompts = self._check_file(linked, compiled, start)
                self._grade(linked, start())
                return prompts
        self.checks.append(CheckResult(FILE, False, reason))
        return []

    def _link(self, compiled: Compiled) -> Linked:
        with self.timeline.stage("link") as stage:
            linked = link(
                list(compiled.graphs.values()),
                compiled.weights,
                self.source.weights,
                self.settings.quantize,
                self.folder / "model.tflite",
                progress=stage.advance,
            )
            stage.note = f"{readable_size(linked.size)}, {self.settings.quantize.name}"
        self.stages.after_link(linked.path)
        if self.dump is not None:
            self.dump.linked(linked.tensors)
            model = mapped_model(linked.path)
            with self.timeline.stage("partitions") as stage:
                partitions = partitions_of(linked.path, list(signatures_by_subgraph(model)))
                stage.note = in_words(partitions.values()) if partitions else "not told by the runtime"
            self.dump.written(model, partitions)
        return linked

    def _check_constants(self, linked: Linked, compiled: Compiled) -> None:
        with self.timeline.stage("check constants") as stage:
            checked = check_constants(
                linked.path,
                compiled.weights,
                self.source.weights,
                self.settings.quantize,
                compiled.graphs.values(),
            )
            stage.note = f"{checked.constants} tensors, {checked.numbers:,} numbers read back"
            self.checks.append(CheckResult(CONSTANTS, True, stage.note))

    def _grade(self, linked: Linked, runner: Runner) -> None:
        """What rounding costs on a text, where there is a tokenizer to read one with; raises BadGrade."""
        if self.tokenizer is None or self.settings.quantize.exact:
            return
        with self._runs("The file"), self.timeline.stage("grade") as stage:
            tokens = text_to_grade(self.source, self.tokenizer, self.grading, self.settings)
            expected = self.expected.of_text(tokens)
            runner.reset()
            bits = 8 * linked.size / self.source.parameters
            self.grade = grade(tokens, expected, map(runner.decode, tokens), bits)
            stage.note = f"KL {self.grade.divergence:.2g} in {len(tokens)} tokens"
            if not self.grading.allow_bad:
                refuse_bad(self.grade, self.grading.worst)

    def _check_file(self, linked: Linked, compiled: Compiled, start: Callable[[], Runner]) -> list[Spoken]:
        """Runs the file, and gives what it says of the prompts that the bundle is then asked."""
        try:
            return self._run_file(linked, compiled, start)
        except CheckFailed as failure:
            with self.timeline.stage("find the fault") as stage:
                found = localized(failure, self.source, self.expected, compiled, self.stages, in_order(self.outside))
                stage.note = ", ".join(filter(None, (found.blamed, found.at))) or "in no pass"
            raise found from failure

    @contextmanager
    def _runs(self, what: str) -> Iterator[None]:
        """What the runtime refuses or dies of is a failed check: it was written here."""
        try:
            yield
        except RuntimeFailed as failure:
            hint = f"{what} must not be used. Please report this with the model's config."
            raise CheckFailed(failure.message, hint=hint) from failure

    def _run_file(self, linked: Linked, compiled: Compiled, start: Callable[[], Runner]) -> list[Spoken]:
        with self._runs("The file"), self.timeline.stage("check file") as stage:
            found = check_linked_file(
                linked.path,
                start,
                compiled,
                reading_plan(self.source, self.settings, compiled),
                self.source.weights,
                self.settings.quantize,
                self.expected,
            )
            stage.note = str(found)
            self.checks.append(CheckResult(FILE, True, stage.note))
            if self.tokenizer is None:
                return []
            context = self.settings.context
            thorough = self.settings.verify == "full" or asks_all_prompts(self.source.parameters)
            return spoken(start(), context, self.tokenizer, thorough=thorough)

    def _bundle(self, linked: Linked, compiled: Compiled, tokenizer: TokenizerSpec, receipt_room: int) -> Path:
        with self.timeline.stage("bundle") as stage:
            path = self.folder / "model.litertlm"
            write_bundle(
                linked.path,
                self.receipts.model_digest,
                tokenizer.section,
                build_llm_metadata(tokenizer, self.settings.context),
                build_executor_metadata(compiled.states, self.settings.context, CPU),
                path,
                CPU.section,
                consume="tflite" not in self.settings.formats,
                receipt_room=receipt_room,
            )
            stage.note = readable_size(path.stat().st_size)
        return path

    def _check_bundle(self, bundle: Path, packed: Path, tokenizer: TokenizerSpec, prompts: Sequence[Spoken]) -> None:
        with self._runs("The bundle"), self.timeline.stage("check bundle") as stage:
            recipe = self.settings.quantize
            found = check_bundle(
                bundle,
                tokenizer,
                prompts,
                room=room_for_chat(self.settings.context, self.settings.prefill),
                tolerance=SAME_NUMBERS if recipe.exact else SAME_CONSTANTS,
                last_bits=None if recipe.exact else partial(self.expected.last_bits, recipe=recipe),
                packed=packed,
            )
            stage.note = str(found)
            self.checks.append(CheckResult(BUNDLE, True, stage.note))
