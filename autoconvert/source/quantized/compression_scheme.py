"""What the configuration of compressed-tensors says of a module's weight: `config_groups` by their `targets`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoconvert.source.quantized.settings import Quantization

_FORMATS = (
    "dense",
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mxfp4-pack-quantized",
    "nvfp4-pack-quantized",
    "mixed-precision",
)


@dataclass(frozen=True)
class Scheme:
    """How weights are quantized; without a `group_size` or a `block`, by rows or as a whole."""

    bits: int
    is_float: bool
    symmetric: bool
    group_size: int | None
    block: tuple[int, ...]
    rounds_activations: bool


def require_supported(quantization: Quantization) -> None:
    """Raise InputError for a format that is not read, and for what the module would compute otherwise."""
    groups = quantization.mapping("config_groups").values()
    formats = [quantization.text("format"), *(group.get("format") for group in groups if isinstance(group, Mapping))]
    for each in formats:
        if each is not None and each not in _FORMATS:
            raise quantization.unsupported(f"format {each}")
    if (sparsity := quantization.mapping("sparsity_config").get("format")) not in (None, "dense"):
        raise quantization.unsupported(f"sparsity_config of format {sparsity}")
    if quantization.mapping("transform_config").get("config_groups"):
        raise quantization.unsupported("transform_config: activations are transformed when it runs")


def scheme_of(quantization: Quantization, module: str) -> Scheme:
    """The scheme of `module`: of the group that names it, in full or by a pattern after `re:`, else of one for a class.

    Raises InputError where no group may be meant, or several that differ.
    """
    groups = [group for group in quantization.mapping("config_groups").values() if isinstance(group, Mapping)]
    named = [group for group in groups if any(_names(target, module) for target in _targets(group))]
    by_class = [group for group in groups if any(_is_class(target) for target in _targets(group))]
    candidates = named or by_class or groups
    schemes = {_scheme(quantization, group) for group in candidates if group.get("weights")}
    if len(schemes) != 1:
        which = "no group of config_groups" if not schemes else f"{len(schemes)} groups of config_groups"
        raise quantization.unsupported(f"{which} for {module}")
    return schemes.pop()


def _scheme(quantization: Quantization, group: Mapping[str, object]) -> Scheme:
    weights = Quantization(quantization.path, Quantization(quantization.path, group).mapping("weights"))
    if (bits := weights.integer("num_bits") or 8) not in range(1, 9):
        raise quantization.unsupported(f"{bits} bits")
    if (kind := weights.text("type") or "int") not in ("int", "float"):
        raise quantization.unsupported(f"numbers of type {kind}")
    size = weights.integer("group_size") or -1
    return Scheme(
        bits,
        is_float=kind == "float",
        symmetric=weights.fields.get("symmetric", True) is not False,
        group_size=size if size > 0 else None,
        block=_block(weights.fields.get("block_structure")),
        rounds_activations=bool(group.get("input_activations")),
    )


def _block(structure: object) -> tuple[int, ...]:
    """The size of blocks, written as [128, 128] or 128x128; empty where there is none."""
    values = structure.lower().split("x") if isinstance(structure, str) else structure
    if not isinstance(values, list | tuple) or len(values) != 2:
        return ()
    sizes = tuple(int(text) for text in map(str, values) if text.isdecimal() and len(text) < 10)
    return sizes if len(sizes) == 2 and min(sizes) > 0 else ()


def _targets(group: Mapping[str, object]) -> list[str]:
    targets = group.get("targets")
    return [target for target in targets if isinstance(target, str)] if isinstance(targets, list) else []


def _names(target: str, module: str) -> bool:
    if not target.startswith("re:"):
        return target == module
    try:
        return re.match(target.removeprefix("re:"), module) is not None
    except re.error:
        return False


def _is_class(target: str) -> bool:
    return not target.startswith("re:") and "." not in target
