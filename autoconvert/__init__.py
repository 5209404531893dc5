"""Converts unmodified PyTorch language models to LiteRT by rewriting the traced graph."""
