"""One run of a `.litertlm` file in the LiteRT-LM engine on the processor: prints its figures as JSON.

The weights that the engine packs at the first run go to a cache, as they do for `litert-lm run`, and are mapped from
it later.
"""

import json
import sys
from pathlib import Path

from engine_benchmark import engine_benchmark


def main(file: str, cache: str, history: int, decode: int, limit: int, threads: int) -> None:
    Path(cache).mkdir(exist_ok=True)
    try:
        info = engine_benchmark(file, prefill=history, decode=decode, context=limit, threads=threads, cache=cache)
    except RuntimeError as error:
        sys.exit(str(error))
    figures = {
        "prefill": info.last_prefill_tokens_per_second,
        "decode": info.last_decode_tokens_per_second,
        "first_token_seconds": info.time_to_first_token_in_second,
        "load_seconds": info.init_time_in_second,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
