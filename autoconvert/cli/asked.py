"""A model as it was asked for, so that it can be asked for again."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def asked(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False, patterns: Sequence[Path] | None = None
) -> str:
    """The words of a command line that name the same model, quoted for a shell; a token is not repeated."""
    words = [model]
    if revision is not None:
        words += ["--revision", revision]
    if trust_remote_code:
        words.append("--trust-remote-code")
    for file in patterns or ():
        words += ["--patterns", str(file)]
    return shlex.join(words)
