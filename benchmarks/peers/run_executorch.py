"""One run of optimum-executorch's `.pte` file, by ExecuTorch's Python bindings: prints its figures as JSON.

The steps are those of `ExecuTorchModelForCausalLM.generate`, which tells no times, and reads the prompt in one run.
"""

import json
import sys
import time

import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
from executorch.extension.pybindings import portable_lib
from executorch.kernels import quantized  # noqa: F401 (registers its operators)


def main(file: str, history: int, decode: int, threads: int) -> None:
    portable_lib._unsafe_reset_threadpool(threads)
    begun = time.perf_counter()
    model = portable_lib._load_for_executorch(file)

    def step(tokens: torch.Tensor, position: int) -> int:
        """The likeliest token after `tokens` [n], of which the first stands at `position`."""
        places = torch.arange(position, position + len(tokens))
        return int(model.forward((tokens[None], places))[0][0, -1].argmax())

    # The method is loaded by its first call; what that writes at the first position is written over.
    step(torch.tensor([1]), 0)
    loaded = time.perf_counter()
    token = step(1 + torch.arange(history) * 7919 % 40000, 0)
    first = time.perf_counter()
    for index in range(decode):
        token = step(torch.tensor([token]), history + index)
    done = time.perf_counter()
    figures = {
        "prefill": history / (first - loaded),
        "decode": decode / (done - first),
        "first_token_seconds": first - loaded,
        "load_seconds": loaded - begun,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[5]))
