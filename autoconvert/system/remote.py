"""An object in a process of its own: native code that dies there is an exception here, and not the end of us.

A process of its own, and not multiprocessing, because that runs the caller's main module again.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# What a process that nothing was wrong with gets to leave by itself before it is killed, in seconds.
_GRACE = 5.0


class Died(Exception):
    """The process ended before it answered; `how` says by which signal or code, `last_words` what it said before."""

    def __init__(self, how: str, last_words: str) -> None:
        super().__init__(f"it ended with {how}{f': {last_words}' if last_words else ' and said nothing'}")
        self.how, self.last_words = how, last_words


class Remote:
    """Calls methods of the object in the other process; arguments, results and exceptions are pickled."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: BinaryIO) -> None:
        self._process, self._log = process, log

    def call(self, method: str, *args: object) -> Any:
        """What `method` of the object gives, or raises.

        Raises Died where the process ends instead of answering.
        """
        self.send(method, *args)
        return self.receive()

    def send(self, *message: object) -> None:
        """The first half of a call; each needs one `receive`."""
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Any:
        """What the call that was sent first, and is not received yet, gives or raises."""
        assert self._process.stdout is not None
        try:
            raised, result = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise self._died() from error
        if raised:
            raise result
        return result

    def said(self) -> str:
        """What the process has written to stderr so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _died(self) -> Died:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Died(how, next(iter(reversed(self.said().strip().splitlines())), ""))


@contextmanager
def remote(make: Callable[..., object], *args: object) -> Iterator[Remote]:
    """The object that `make(*args)` gives in a new process; the process ends with the context.

    `make` is a class or function at the top of a module, which is all that the process imports. Errors of `make` are
    raised by the first call.
    """
    folder = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
            # A process group of its own: an interrupt is ours to handle, and closing its input ends it.
            process_group=0,
        ) as process,
    ):
        at_other_end = Remote(process, log)
        try:
            at_other_end.send(make, *args)
            yield at_other_end
        except BaseException:
            process.kill()
            raise
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait(_GRACE)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()


def _serve(requests: BinaryIO, results: BinaryIO) -> None:
    made: Any = None
    failure: BaseException | None = None
    try:
        make, *args = pickle.load(requests)
        made = make(*args)
    except Exception as error:
        failure = error
    while True:
        try:
            method, *args = pickle.load(requests)
        except EOFError:
            return
        try:
            if failure is not None:
                raise failure
            answer = (False, getattr(made, method)(*args))
        except Exception as error:
            answer = (True, _portable(error))
        pickle.dump(answer, results, protocol=pickle.HIGHEST_PROTOCOL)
        results.flush()


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be handed on."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as output:
        # Whatever a library prints must not come between results.
        os.dup2(2, 1)
        _serve(sys.stdin.buffer, output)
    # What is left is memory, and native libraries take long to give it back piece by piece.
    os._exit(0)
