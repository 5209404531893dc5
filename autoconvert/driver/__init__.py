"""A conversion from end to end: what is chosen, compiled, kept, linked, bundled and reported."""
