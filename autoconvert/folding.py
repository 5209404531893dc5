"""Folding: module paths that differ in a layer's number alone, written as one."""

from collections.abc import Iterable


def folded(paths: Iterable[str]) -> tuple[str, ...]:
    """Paths in the order of their first; `a.0.b`, `a.1.b` and `a.3.b` become `a.0–1,3.b`."""
    groups: dict[tuple[str, ...], dict[str, None]] = {}
    for path in paths:
        parts = path.split(".")
        groups.setdefault(tuple("" if part.isdigit() else part for part in parts), {})[path] = None
    return tuple(line for group in groups.values() for line in _together(list(group)))


def _together(paths: list[str]) -> list[str]:
    """Paths of one form: one line where they are all combinations of their numbers, as they are otherwise."""
    columns = [sorted(set(column), key=_by_number) for column in zip(*(path.split(".") for path in paths), strict=True)]
    combinations = 1
    for column in columns:
        combinations *= len(column)
    return [".".join(map(_range, columns))] if combinations == len(paths) else paths


def _by_number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (0, part)


def _range(column: list[str]) -> str:
    if len(column) == 1:
        return column[0]
    runs: list[list[int]] = []
    for number in map(int, column):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
