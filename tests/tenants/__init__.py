"""Models that are no decoders of text, end to end: what the frame carries beside them."""
