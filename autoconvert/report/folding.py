"""Folding: module paths that differ in a layer's number alone, written as one."""

from collections.abc import Iterable


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last of each run of numbers that follow one another."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


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
    return ",".join(str(first) if first == last else f"{first}–{last}" for first, last in runs(map(int, column)))
