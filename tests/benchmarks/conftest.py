"""Makes the benchmark scripts importable, as they are to each other when one of them is run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
