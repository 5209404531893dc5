"""What is said of a layer of a file that somebody made: it is as the model's, it is not, or why nobody knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autoconvert.errors import CheckFailed
from autoconvert.runtime.failed import RuntimeFailed

Outcome = Literal["passed", "failed", "not checked"]

CONTRACT = "contract"
TOKENIZER, TEMPLATE, FRAMING = "tokenizer", "template", "start and stop tokens"
PREFILL, DECODE, WINDOW, END = "prefill", "decode", "window", "end of context"
QUANTISATION = "quantisation"
RECEIPT = "receipt"

TEXT_LAYERS = (TOKENIZER, TEMPLATE, FRAMING)
NUMBER_LAYERS = (PREFILL, DECODE, WINDOW, END, QUANTISATION)
LAYERS = (CONTRACT, *TEXT_LAYERS, *NUMBER_LAYERS, RECEIPT)


@dataclass(frozen=True)
class Verdict:
    """`detail` says what was compared, what differs, or why nothing could be compared."""

    layer: str
    outcome: Outcome
    detail: str


def passed(layer: str, detail: str) -> Verdict:
    return Verdict(layer, "passed", detail)


def failed(layer: str, detail: str) -> Verdict:
    return Verdict(layer, "failed", detail)


def not_checked(layer: str, why: str) -> Verdict:
    return Verdict(layer, "not checked", why)


def judged(layer: str, check: Callable[[], str]) -> Verdict:
    """The verdict that `check` comes to: it gives what it compared, or raises CheckFailed or RuntimeFailed."""
    try:
        return passed(layer, check())
    except (CheckFailed, RuntimeFailed) as failure:
        return failed(layer, failure.message)
