"""Checkpoints that are quantized already: their weights read as the float32 numbers that stored tensors stand for."""
