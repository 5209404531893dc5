"""A small trained Llama that ships with the package: what the model name `demo` stands for."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""A folder as `save_pretrained` writes it: config, tokenizer and weights, beside the code that made them."""
