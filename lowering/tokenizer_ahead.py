"""A large tokenizer is read by a process of its own, while this one imports what compiles and builds the model.

A thread would not do: parsing holds Python's lock. The process is as in `worker`.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autoconvert.lowering.tokenizer import TokenizerSpec, read_tokenizer

# Bytes of a tokenizer.json: starting a process for a smaller one takes longer than reading it.
_LARGE = 1 << 20

ReadTokenizer = Callable[[Path], TokenizerSpec]


@contextmanager
def tokenizer_ahead(folder: Path | None, large: int = _LARGE) -> Iterator[ReadTokenizer]:
    """Begins to read the tokenizer of `folder`, if it is one and its tokenizer is large; gives what reads one.

    What is given is `read_tokenizer`, which does not begin anew for `folder`, and raises what that raises. On leaving
    the process has ended.
    """
    file = None if folder is None else folder / "tokenizer.json"
    if folder is None or file is None or not file.is_file() or file.stat().st_size < large:
        yield read_tokenizer
        return
    command = [sys.executable, "-m", "autoconvert.lowering.tokenizer_ahead", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
    ) as process:

        def read(wanted: Path) -> TokenizerSpec:
            said = process.communicate()[0] if wanted == folder else b""
            # Whatever went wrong there is said by reading it here.
            return pickle.loads(said) if said and process.returncode == 0 else read_tokenizer(wanted)

        try:
            yield read
        finally:
            process.kill()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as output:
        # Whatever a library prints must not come between.
        os.dup2(2, 1)
        pickle.dump(read_tokenizer(Path(sys.argv[1])), output)
