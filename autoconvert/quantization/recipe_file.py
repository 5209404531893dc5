"""A recipe in a JSON file, as ai-edge-quantizer writes and reads them: a list of rules, of which the last decides.

The format is that of `ai_edge_quantizer.recipe`: each rule has a `regex` that is searched in the name of a layer, here
in the name of the module's tensor, an `operation`, an `algorithm_key`, and an `op_config`. Its own manager reads it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithm_manager import AlgorithmName, check_op_quantization_config
from ai_edge_quantizer.recipe_manager import RecipeManager

from autoconvert.errors import InputError
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.uniform import BLOCKS, Choice, uniform
from autoconvert.quantization.recipe import HEAD, LOOKED_UP, MULTIPLIED, Recipe, RecipeRule, Use
from autoconvert.quantization.recipes import RECIPES, made_of

_OPERATIONS: Mapping[qtyping.TFLOperationName, frozenset[Use]] = {
    qtyping.TFLOperationName.FULLY_CONNECTED: frozenset({MULTIPLIED, HEAD}),
    qtyping.TFLOperationName.EMBEDDING_LOOKUP: frozenset({LOOKED_UP}),
}
_CHOICES: Mapping[str, Choice] = {
    AlgorithmName.MIN_MAX_UNIFORM_QUANT: "min-max",
    AlgorithmName.OCTAV: "octav",
    AlgorithmName.MSE: "mse",
    # What lies on a grid already stays on it, whatever is asked for.
    AlgorithmName.DEQUANTIZED_WEIGHT_RECOVERY: "min-max",
}
_BLOCKS: Mapping[str, int | None] = {"CHANNELWISE": None, **{f"BLOCKWISE_{block}": block for block in BLOCKS}}


def recipe_of(quantize: str | Path | Recipe) -> Recipe:
    """The recipe that a name or a file stands for. Raises InputError where there is none."""
    if isinstance(quantize, Recipe):
        return quantize
    if (named := RECIPES.get(str(quantize))) is not None:
        return named
    if Path(quantize).suffix == ".json":
        return read_recipe(Path(quantize))
    raise InputError(
        f"--quantize {quantize} is not known.",
        hint=f"Choose one of {', '.join(RECIPES)}, or a recipe's JSON file, as ai-edge-quantizer writes it.",
    )


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file. Raises InputError where it cannot be read, or asks for what no file here can hold."""
    try:
        manager = RecipeManager()
        manager.load_quantization_recipe(json.loads(path.read_bytes()))
        entries = manager.get_quantization_recipe()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint="Give a recipe's JSON file.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: not a recipe of ai-edge-quantizer ({type(error).__name__}: {error})",
            hint="A recipe is a list of rules with regex, operation, algorithm_key and op_config.",
        ) from error
    # The quantizer takes the last that fits, a recipe the first.
    rules = [rule for number, entry in reversed([*enumerate(entries, 1)]) for rule in _rules(path, number, entry)]
    return made_of(path.name, f"as {path.name} says", rules)


def _rules(path: Path, number: int, entry: Mapping[str, Any]) -> Iterator[RecipeRule]:
    """A rule for each operation that has a table and that the quantizer takes the entry for."""
    where = f"{path}: rule {number}"
    try:
        re.compile(entry["regex"])
    except re.error as error:
        raise InputError(
            f"{where}: {entry['regex']!r} is no regular expression ({error})", hint="Correct it."
        ) from error
    key, config = entry["algorithm_key"], entry.get("op_config", {})
    for operation, uses in _OPERATIONS.items():
        if entry["operation"] in (operation, qtyping.TFLOperationName.ALL_SUPPORTED) and _is_for(
            key, operation, config
        ):
            least = config.get("min_weight_elements", 0)
            yield RecipeRule(_encoding(where, key, config), entry["regex"], uses, least=least)


def _is_for(key: str, operation: qtyping.TFLOperationName, config: Mapping[str, Any]) -> bool:
    if key == AlgorithmName.NO_QUANTIZE:
        return True
    try:
        check_op_quantization_config(key, operation, qtyping.OpQuantizationConfig.from_dict(dict(config)))
    except ValueError:
        return False
    return True


def _encoding(where: str, key: str, config: Mapping[str, Any]) -> Encoding:
    if key == AlgorithmName.NO_QUANTIZE:
        return FLOAT32
    if config.get("activation_tensor_config"):
        raise InputError(
            f"{where} asks for static activations, which are not supported yet",
            hint="Leave activation_tensor_config out: activations are then quantized as they come.",
        )
    weight = config.get("weight_tensor_config") or {}
    bits, granularity = (
        weight.get("num_bits"),
        str(getattr(weight.get("granularity"), "value", weight.get("granularity"))),
    )
    if key == AlgorithmName.FLOAT_CASTING and bits == 16:
        return FLOAT16
    if key not in _CHOICES:
        raise InputError(
            f"{where} asks for the algorithm {key}, which is not supported yet",
            hint=f"Choose one of: {', '.join((*_CHOICES, AlgorithmName.FLOAT_CASTING, AlgorithmName.NO_QUANTIZE))}.",
        )
    if bits not in (4, 8) or granularity not in _BLOCKS or not weight.get("symmetric", True):
        raise InputError(
            f"{where} asks for {bits} bits, {granularity}, {'' if weight.get('symmetric', True) else 'a'}symmetric",
            hint=f"Kernels read 4 or 8 bits, symmetric, {' or '.join(_BLOCKS)}.",
        )
    widened = bool(config.get("explicit_dequantize"))
    if widened and _BLOCKS[granularity] is not None:
        raise InputError(f"{where} asks for blocks that are widened before their use", hint="Choose CHANNELWISE.")
    return uniform(bits, _BLOCKS[granularity], _CHOICES[key], widened)
