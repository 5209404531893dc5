"""What a device computes an operation by, where it has no kernel of its own: one kind of operation a file."""
