"""The receipt of a conversion: hashed beside its other work, written when all that it says is known."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from autoconvert.driver.settings import Settings, as_data
from autoconvert.packaging.receipt import Checked, Receipt, SectionDigest, write_receipt
from autoconvert.report.check_result import BUNDLE, CONSTANTS, FILE, REWRITES, CheckResult
from autoconvert.report.report import versions
from autoconvert.source.accounting import Row
from autoconvert.source.source import Source
from autoconvert.source.tensors import checkpoint_of, contents, stored_tensors
from autoconvert.system.hashing import Digests, Hashing, file_pieces

_MODEL = "TFLiteModel"


@dataclass
class Receipts:
    """Hashes the checkpoint of `source` from the beginning, and its model once that is linked."""

    source: Source
    hasher: Hashing
    _tensors: "Future[Digests]" = field(init=False)
    _model: "Future[Digests]" = field(init=False)

    def __post_init__(self) -> None:
        self._tensors = self.hasher.start(contents(self.source))

    def hash_model(self, tflite: Path) -> None:
        """Begins to hash the linked model, which stays as it is until its digest is asked for."""
        self._model = self.hasher.start({_MODEL: file_pieces(tflite)})

    @property
    def model_digest(self) -> str:
        """The digest of the linked model, when it is hashed."""
        return self._model.result()[_MODEL]

    def drafted(self, settings: Settings, rows: Sequence[Row], checks: Sequence[CheckResult]) -> Receipt:
        """All but the sections, when the checkpoint is hashed. Raises InputError for a checkpoint that has changed."""
        used = [row.name for row in rows if row.status == "used"]
        return Receipt(
            source=self.source.origin,
            settings=as_data(settings),
            versions=versions(),
            checks=tuple(_checked(settings, checks)),
            sections=(),
            tensors=stored_tensors(checkpoint_of(self.source), used, self._tensors.result()),
        )

    def written(
        self,
        settings: Settings,
        rows: Sequence[Row],
        checks: Sequence[CheckResult],
        model_size: int,
        bundle: Path | None,
    ) -> Receipt:
        """The whole receipt, which is then in `bundle` too, where there is one; else the model is its only section."""
        receipt = self.drafted(settings, rows, checks)
        if bundle is not None:
            return write_receipt(bundle, receipt, {_MODEL: self.model_digest})
        return dataclasses.replace(receipt, sections=(SectionDigest(_MODEL, model_size, self.model_digest),))


def _checked(settings: Settings, checks: Sequence[CheckResult]) -> Iterator[Checked]:
    """The checks that ran, then those that a person may think had run."""
    for check in checks:
        yield Checked(check.name, check.passed, check.detail)
    expected = [REWRITES, CONSTANTS, FILE, *([BUNDLE] if "litertlm" in settings.formats else [])]
    why = "not run: --verify off" if settings.verify == "off" else "not run: the file was not run"
    ran = {check.name for check in checks}
    yield from (Checked(name, False, why) for name in expected if name not in ran)
