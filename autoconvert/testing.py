"""What a pattern's author writes in a test: `check(PATTERN)`, alone, in a module, and in the runtime."""

from autoconvert.check.pattern import check_other_sizes, check_pattern
from autoconvert.pattern import Pattern


def check(pattern: Pattern) -> None:
    check_pattern(pattern)
    check_other_sizes(pattern)
