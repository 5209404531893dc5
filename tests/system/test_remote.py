"""An object in another process: what it gives, raises, and that its death is an exception here."""

import os
import signal
import sys
from pathlib import Path

import pytest

from autoconvert.errors import InputError
from autoconvert.system.remote import Died, remote


class Counter:
    """What the tests run over there."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise InputError("a count begins at 0", hint="count up")
        self._count = start

    def add(self, number: int) -> int:
        self._count += number
        return self._count

    def fail(self) -> None:
        raise InputError("no", hint="yes")

    def fail_oddly(self) -> None:
        class Local(Exception):
            """Nobody else can make one."""

        raise Local("odd")

    def die(self) -> None:
        print("farewell", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)

    def chatter(self) -> str:
        print("this would spoil an answer", flush=True)
        return "answer"

    def process(self) -> int:
        return os.getpid()


def test_the_object_keeps_its_state_between_calls() -> None:
    with remote(Counter, 3) as counter:
        assert [counter.call("add", 1), counter.call("add", 2)] == [4, 6]


def test_errors_come_back_as_they_are() -> None:
    with remote(Counter, 0) as counter:
        with pytest.raises(InputError, match="no") as caught:
            counter.call("fail")
        assert caught.value.hint == "yes"
        with pytest.raises(RuntimeError, match="Local: odd"):
            counter.call("fail_oddly")
        assert counter.call("add", 1) == 1


def test_an_error_of_making_the_object_is_raised_by_the_first_call() -> None:
    with remote(Counter, -1) as counter, pytest.raises(InputError, match="begins at 0"):
        counter.call("add", 1)


def test_a_death_is_an_exception_that_names_the_signal_and_the_last_words() -> None:
    with remote(Counter, 0) as counter, pytest.raises(Died, match="SIGSEGV") as caught:
        counter.call("die")
    assert caught.value.last_words == "farewell"


def test_what_libraries_print_spoils_no_answer() -> None:
    with remote(Counter, 0) as counter:
        assert counter.call("chatter") == "answer"


def test_the_process_ends_with_the_context() -> None:
    with remote(Counter, 0) as counter:
        process = counter.call("process")
        assert Path(f"/proc/{process}").exists()
    assert not Path(f"/proc/{process}").exists()
