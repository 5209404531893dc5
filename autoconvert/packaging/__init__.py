"""What surrounds a model in a bundle: tokenizer, chat template, metadata, the file format."""
