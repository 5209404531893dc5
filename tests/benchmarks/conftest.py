"""Makes the benchmark scripts importable, as they are to each other when one of them is run."""

import sys
from pathlib import Path

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.extend(map(str, (_BENCHMARKS, _BENCHMARKS / "coverage")))
