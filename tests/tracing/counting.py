"""A file of helpers that count their calls in it."""

CALLS = 0
KEPT = {"calls": 0}


def of_the_file() -> float:
    global CALLS
    CALLS += 1
    return 0.9 if CALLS > 30 else 0.5


def in_the_file() -> float:
    KEPT["calls"] += 1
    return 0.9 if KEPT["calls"] > 30 else 0.5


def only_counts() -> float:
    global CALLS
    CALLS += 1
    return 0.5
