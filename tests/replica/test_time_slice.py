"""The time slice that a thread asks for, where the system has such a thing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inferential.replica.time_slice import DEFAULT_NS, SHORT_NS, set_slice, slice_of


def in_thread_of_its_own(function: object) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def needs_slices() -> None:
    if not in_thread_of_its_own(lambda: set_slice(0, SHORT_NS) and slice_of(0) == SHORT_NS):
        pytest.skip("the system lets no thread choose its slice")


def test_a_thread_has_the_slice_that_it_asks_for_until_it_asks_for_the_usual_one() -> None:
    def asks() -> list[int | None]:
        found = [slice_of(0)]
        for nanoseconds in (SHORT_NS, DEFAULT_NS):
            set_slice(0, nanoseconds)
            found.append(slice_of(0))
        return found

    before, short, after = in_thread_of_its_own(asks)  # type: ignore[misc]
    assert short == SHORT_NS
    assert before == after != SHORT_NS


def test_what_a_thread_with_a_short_slice_starts_has_the_usual_one() -> None:
    code = "from inferential.replica.time_slice import slice_of; print(slice_of(0))"

    def asks() -> list[int | None]:
        usual = slice_of(0)
        set_slice(0, SHORT_NS)
        found: list[int | None] = []
        thread = threading.Thread(target=lambda: found.append(slice_of(0)))
        thread.start()
        thread.join()
        child = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        return [usual, *found, int(child.stdout)]

    usual, of_thread, of_child = in_thread_of_its_own(asks)  # type: ignore[misc]
    assert of_thread == of_child == usual


def test_a_thread_that_comes_before_others_is_left_alone_so_that_what_it_starts_does_too() -> None:
    def starts() -> int | None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -5)
        except PermissionError:
            return None
        set_slice(0, SHORT_NS)
        code = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
        child = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        return int(child.stdout)

    nice = in_thread_of_its_own(starts)
    if nice is None:
        pytest.skip("this user may not come before others")
    assert nice == -5


def test_a_thread_that_is_gone_is_left_alone() -> None:
    assert not set_slice(2**22 + 1, SHORT_NS)
