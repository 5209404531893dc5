"""Checks what is deployed: the linked file in the interpreter, and the bundle in the runtime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autoconvert.check.bundle import check_bundle
from autoconvert.check.file import logits_at, telling_positions
from autoconvert.check.parity import Reference, compare_logits, random_tokens
from autoconvert.errors import CheckFailed
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.link import link
from autoconvert.packaging.tokenizer import TokenizerSpec, load_tokenizer
from autoconvert.quantization.recipe import Recipe
from autoconvert.quantization.recipes import UNQUANTIZED
from autoconvert.runtime.interpreter import Runner, open_file
from autoconvert.source.weights import Weights

# Positions that `--verify full` decodes one after the other; logits of more would not fit everywhere.
_EACH = 256
# Natural log-probability of a token, in the engine against the same constants in the interpreter.
_SAME_CONSTANTS = 2e-2


def check_linked_file(
    path: Path,
    compiled: Compiled,
    weights: Weights,
    recipe: Recipe,
    reference: Reference,
    *,
    thorough: bool,
) -> str:
    """Prefills prefixes and decodes at their ends; gives a sentence for the report, raises CheckFailed.

    A quantized file is compared twice: the same graphs linked with unquantized weights must give the source's
    logits, and what quantization changes in the file itself must be of the size of rounding.
    """
    context, vocabulary = compiled.context, compiled.vocabulary
    if recipe.exact:
        worst = _check_exact(path, context, reference, vocabulary, thorough)
        return f"logits within {worst:.1e} σ"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        graphs, file = list(compiled.graphs.values()), Path(folder) / "exact.tflite"
        exact = link(graphs, compiled.weights, weights, UNQUANTIZED, file)
        worst = _check_exact(exact.path, context, reference, vocabulary, thorough)
    rounding = _check_rounding(path, context, reference, vocabulary, recipe.rounding)
    return f"logits within {worst:.1e} σ unquantized, {recipe.name} changes them by {rounding:.1e} σ"


def _check_exact(path: Path, context: int, reference: Reference, vocabulary: int, thorough: bool) -> float:
    with open_file(path, context) as runner:
        positions = telling_positions(runner.prefill_lengths, context)
        worst = compare_positions(runner, positions, reference, vocabulary)
        return max(worst, compare_each(runner, min(context, _EACH), reference, vocabulary)) if thorough else worst


def compare_positions(
    runner: Runner, positions: Sequence[int], reference: Reference, vocabulary: int, tolerance: float = 1e-4
) -> float:
    """Random tokens, prefilled up to each position and decoded there, against one run of the reference."""
    tokens = random_tokens(max(positions) + 1, vocabulary)
    expected = reference(tokens, at=positions)
    logits = torch.stack([logits_at(runner, tokens, position) for position in positions])
    return compare_logits(logits, expected, "the file, run by its signatures,", tolerance, positions)


def compare_each(runner: Runner, count: int, reference: Reference, vocabulary: int) -> float:
    """Random tokens decoded one by one from the first on, against one run of the reference."""
    tokens = random_tokens(count, vocabulary)
    return compare_logits(_decoded(runner, tokens), reference(tokens), "the file, decoding token by token,")


def _check_rounding(path: Path, context: int, reference: Reference, vocabulary: int, allowed: float) -> float:
    with open_file(path, context) as runner:
        positions = telling_positions(runner.prefill_lengths, min(context, 256))
        tokens = random_tokens(max(positions) + 1, vocabulary)
        expected = reference(tokens, at=positions)
        logits = torch.stack([logits_at(runner, tokens, position) for position in positions])
    change = float(((logits - expected).square().mean(-1).sqrt() / expected.std(-1)).max())
    if not change <= allowed:
        raise CheckFailed(
            f"The check failed: the quantized file's logits differ from the model's by {change:.2g} standard "
            f"deviations (root mean square), and rounding explains at most {allowed:g}.",
            hint="Convert with --quantize none to see whether the model can be quantized this way at all.",
        )
    return change


def check_bundle_file(
    bundle: Path,
    linked: Path,
    folder: Path,
    context: int,
    recipe: Recipe,
    reference: Reference,
    tokenizer: TokenizerSpec,
    trust_remote_code: bool = False,
) -> str:
    """The runtime's tokens and scores against the source's tokenizer and logits; raises CheckFailed.

    For a quantized bundle the logits are those of the linked file, whose distance to the source is checked apart.
    """
    source_tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    encode_turn = None
    if tokenizer.chat is not None:

        def encode_turn(text: str) -> list[int]:
            turn = [{"role": "user", "content": text}]
            return list(source_tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False))

    exact = recipe.exact
    with open_file(linked, context) as runner:
        checked = check_bundle(
            bundle,
            reference if exact else lambda tokens: _decoded(runner, tokens),
            lambda text: list(source_tokenizer.encode(text)),
            tolerance=1e-3 if exact else _SAME_CONSTANTS,
            encode_turn=encode_turn,
        )
    return f"log-probabilities within {checked.worst:.1e} at prompts of {', '.join(map(str, checked.lengths))} tokens"


def _decoded(runner: Runner, tokens: Sequence[int]) -> Tensor:
    runner.reset()
    return torch.stack([runner.decode(token) for token in tokens])
