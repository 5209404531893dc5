"""Tests of checkpoints that are quantized already, in tiny models that each test packs by the format's layout."""
