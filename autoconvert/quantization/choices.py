"""The names of the recipes and what each means, where importing an encoding would take too long: `--help`."""

DEFAULT = "int8"

# The mean divergence of next tokens from the model's, in nats, that a file may have. Beyond it a text still reads well,
# and answers are others: int4 with a scale a row often is.
WORST_DIVERGENCE = 0.5

SUMMARIES = {
    "int8": "a quarter of the size, a scale a row",
    "int4": "an eighth, a scale for every 32 numbers; embedding and head in int8",
    "fp16": "half the size",
    "none": "float32",
}
