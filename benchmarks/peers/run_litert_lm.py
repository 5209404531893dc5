"""One run of a `.litertlm` file in the LiteRT-LM engine on the processor: prints its figures as JSON.

It is the engine's own benchmark, what `litert-lm benchmark` runs. The weights that the engine packs at the first run
go to a cache, as they do for `litert-lm run`, and are mapped from it later.
"""

import json
import sys
from pathlib import Path

import litert_lm


def main(file: str, cache: str, history: int, decode: int, limit: int, threads: int) -> None:
    Path(cache).mkdir(exist_ok=True)
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    info = litert_lm.Benchmark(
        file,
        litert_lm.Backend.CPU(thread_count=threads),
        prefill_tokens=history,
        decode_tokens=decode,
        max_num_tokens=limit,
        cache_dir=cache,
    ).run()
    done = (info.last_prefill_token_count, info.last_decode_token_count)
    if done != (history, decode):
        sys.exit(f"{file}: {done[0]} tokens in and {done[1]} out instead of {history} and {decode}")
    figures = {
        "prefill": info.last_prefill_tokens_per_second,
        "decode": info.last_decode_tokens_per_second,
        "first_token_seconds": info.time_to_first_token_in_second,
        "load_seconds": info.init_time_in_second,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
