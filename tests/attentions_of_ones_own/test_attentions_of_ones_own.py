"""Attentions and biases that no built-in pattern covers: a few lines of an outside pattern make a right file of each.

Four of them have no softmax: their patterns bring an operation that reads the history, whose caches and masks are the
compiler's.
"""

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import autoconvert
from autoconvert.check.parity import random_tokens
from autoconvert.passes.fuse import fuse
from autoconvert.patterns import PATTERNS
from tests import models
from tests.attentions_of_ones_own import kernel_smoother, relu_of_keys, retention, slopes_of_keys, stick_breaking
from tests.driver.test_any_length import assert_right_in_pieces

CONTEXT = 48
MOST_LINES = 12
MODELS: dict[ModuleType, type[nn.Module]] = {
    kernel_smoother: kernel_smoother.KernelDecoder,
    relu_of_keys: relu_of_keys.ReluOfKeys,
    retention: retention.RetentiveDecoder,
    slopes_of_keys: slopes_of_keys.LearnedSlopes,
    stick_breaking: stick_breaking.StickDecoder,
}
each_of_them = pytest.mark.parametrize("file", MODELS, ids=lambda file: file.__name__.rpartition(".")[-1])


def decoder(file: ModuleType) -> nn.Module:
    torch.manual_seed(0)
    return models.noisy(MODELS[file]())


@each_of_them
def test_no_pattern_of_ours_covers_it(file: ModuleType) -> None:
    assert "attention" not in fuse(models.traced(decoder(file)), PATTERNS, lambda *_: None).fusion.blocks


@each_of_them
def test_its_pattern_is_short(file: ModuleType) -> None:
    body = ast.parse(inspect.getsource(file)).body
    lines = (
        node.end_lineno - node.lineno + 1 for node in body if isinstance(node, ast.FunctionDef) and node.end_lineno
    )
    assert sum(lines) <= MOST_LINES


@each_of_them
def test_with_it_the_file_is_right_however_a_text_is_read(file: ModuleType, tmp_path: Path) -> None:
    module, tokens = decoder(file), random_tokens(CONTEXT, 53)
    bundle = autoconvert.convert(
        module,
        tmp_path,
        quantize="none",
        context=CONTEXT,
        formats=("tflite",),
        cache=False,
        patterns=[Path(str(file.__file__))],
    )
    assert bundle.report.blocks["attention"] and not bundle.report.settings["why_fixed"]
    expected = models.logits_of_source(module, tokens)
    texts = ((0,) * CONTEXT, (17, 16), (3, 29, 1), (CONTEXT - 1,))
    assert_right_in_pieces(bundle.files["tflite"], tokens, expected, *texts)
