"""Processes for many names: what one does is no other's business."""

import os
import time

from pool import Ended, run_all


def act(name: str, suffix: str) -> str:
    if name == "raises":
        raise ValueError("no")
    if name == "dies":
        os._exit(7)
    if name == "hangs":
        time.sleep(60)
    return name + suffix


def ends(*names: str, timeout: float = 30) -> dict[str, Ended]:
    found = run_all(names, __name__, "act", ("!",), jobs=2, timeout=timeout, preload=())
    return {ended.name: ended for ended in found}


def test_a_crash_costs_only_its_own_name() -> None:
    found = ends("first", "raises", "dies", "last")
    assert (found["first"].value, found["last"].value) == ("first!", "last!")
    assert "ValueError: no" in found["raises"].problem
    assert "ended with 7" in found["dies"].problem


def test_a_hang_is_ended() -> None:
    found = ends("hangs", "last", timeout=2)
    assert "not done after 2 seconds" in found["hangs"].problem
    assert found["last"].value == "last!"
    assert found["hangs"].seconds < 10
