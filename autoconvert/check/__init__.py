"""Checks: each compares a result with the source model by a path that does not share code with what it checks."""
