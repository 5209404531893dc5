"""One encoding a file: how its numbers are made, what they stand for, and how far they may lie from their source."""
