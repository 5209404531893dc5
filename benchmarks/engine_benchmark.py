"""One run of the LiteRT-LM engine's own benchmark on the processor: what `litert-lm benchmark` runs."""

import litert_lm


def engine_benchmark(
    file: str, *, prefill: int, decode: int, context: int, threads: int, cache: str
) -> litert_lm.BenchmarkInfo:
    """What it says of `prefill` tokens in and `decode` out; packed weights go to the folder `cache`, or ":nocache".

    Raises RuntimeError if the engine stops short of the tokens asked for.
    """
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    info = litert_lm.Benchmark(
        file,
        litert_lm.Backend.CPU(thread_count=threads),
        prefill_tokens=prefill,
        decode_tokens=decode,
        max_num_tokens=context,
        cache_dir=cache,
    ).run()
    if (info.last_prefill_token_count, info.last_decode_token_count) != (prefill, decode):
        raise RuntimeError(
            f"{file}: {info.last_prefill_token_count} tokens in and {info.last_decode_token_count} out"
            f" instead of {prefill} and {decode}"
        )
    return info
