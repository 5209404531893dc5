"""How a `.litertlm` file is run, whoever made it."""

import sys
from pathlib import Path

from peers.peer import CACHE, Load, package_version


def engine_version() -> str:
    return f"litert-lm {package_version('litert-lm-api', None, 'pip install litert-lm-api')}"


def litert_lm_command(file: Path, load: Load, _place: Path | None) -> list[str]:
    """The command of one run, in our interpreter: one engine for all such files."""
    numbers = (load.history, load.decode, load.limit, load.threads)
    return [sys.executable, "-m", "peers.run_litert_lm", str(file), str(file.with_name(CACHE)), *map(str, numbers)]
