"""The names of the recipes and what each means, where importing an encoding would take too long: `--help`."""

from typing import Literal

Choice = Literal["none", "fp16", "int8"]

DEFAULT: Choice = "int8"

SUMMARIES: dict[Choice, str] = {
    "int8": "a quarter of the size, a scale a row",
    "fp16": "half the size",
    "none": "float32",
}
