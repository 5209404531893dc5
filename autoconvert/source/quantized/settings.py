"""What a configuration says about how its checkpoint is quantized."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoconvert.errors import InputError

ORIGINAL = "pass the original checkpoint in bfloat16, float16 or float32"


@dataclass(frozen=True)
class Quantization:
    """The `fields` of quantization_config in the configuration at `path`."""

    path: Path
    fields: Mapping[str, object]

    @property
    def method(self) -> str:
        """quant_method; bitsandbytes is also named by its flags alone, as configurations before 2023 do."""
        if isinstance(method := self.fields.get("quant_method"), str):
            return method.lower()
        if self.fields.get("load_in_4bit") or self.fields.get("load_in_8bit"):
            return "bitsandbytes"
        raise InputError(f"{self.path}: quantization_config names no quant_method", hint=ORIGINAL)

    def text(self, name: str) -> str | None:
        """A field in lower case; None where it is absent or null."""
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self._malformed(name, value)
        return value.lower() if value is not None else None

    def integer(self, name: str) -> int | None:
        value = self.fields.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self._malformed(name, value)
        return value

    def mapping(self, name: str) -> Mapping[str, object]:
        """A field that is an object; empty where it is absent or null."""
        value = self.fields.get(name) or {}
        if not isinstance(value, Mapping):
            raise self._malformed(name, value)
        return value

    def unsupported(self, option: str, hint: str = ORIGINAL) -> InputError:
        """The error that `option` of this checkpoint's method is not supported."""
        return InputError(
            f"{self.path}: the checkpoint is quantized by {self.method} with {option}, which is not supported yet",
            hint=hint,
        )

    def _malformed(self, name: str, value: object) -> InputError:
        return InputError(
            f"{self.path}: {name} of quantization_config is {value!r}", hint="download or save the model again"
        )


def quantization_in(path: Path, fields: Mapping[str, object]) -> Quantization | None:
    """The quantization that the configuration at `path` names, for the whole model or for its text; None for none."""
    for scope in (fields, fields.get("text_config")):
        if not isinstance(scope, Mapping):
            continue
        # compression_config is what compressed-tensors wrote before transformers knew it.
        for key in ("quantization_config", "compression_config"):
            if not (found := scope.get(key)):
                continue
            if not isinstance(found, Mapping):
                raise InputError(f"{path}: {key} is {found!r}", hint="download or save the model again")
            # compressed-tensors once wrote its fields a level deeper.
            inner = found.get("quantization_config")
            return Quantization(path, {**found, **inner} if isinstance(inner, Mapping) else found)
    return None
