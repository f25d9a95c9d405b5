"""Threads that share one connection: nobody's answer is lost, and nobody sleeps for ever."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from inferential import Connection, RequestSuperseded

pytestmark = pytest.mark.usefixtures("patient")
WAIT_MS = 20_000
Open = Callable[..., Connection]


def test_one_thread_observes_while_another_waits(peer: Any, open_connection: Open) -> None:
    model = open_connection().model("m", queue="all")
    got: list[int] = []

    def wait() -> None:
        while len(got) < 200:
            result = model.get_result(WAIT_MS)
            assert result is not None
            got.append(int(result["actions"]))

    with peer.serving(), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        for number in range(200):
            model.observe(n=np.array(number))
        waiting.result(60)
    assert got == list(range(200))


def test_many_threads_infer_over_one_handle(peer: Any, open_connection: Open) -> None:
    model = open_connection().model("m", queue="all")

    def infer(start: int) -> None:
        for number in range(start, start + 40):
            result = model.infer(WAIT_MS, n=np.array(number))
            assert result is not None
            assert result["actions"] == number

    with peer.serving(), ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(infer, start) for start in range(0, 8000, 1000)]:
            done.result(60)


def test_many_threads_wait_for_one_handle_and_each_result_is_had_once(peer: Any, open_connection: Open) -> None:
    model = open_connection().model("m", queue="all")
    got: Counter[int] = Counter()
    lock = threading.Lock()

    def wait() -> None:
        for _ in range(25):
            result = model.get_result(WAIT_MS)
            assert result is not None
            with lock:
                got[int(result["actions"])] += 1

    with peer.serving(), ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait) for _ in range(8)]
        for number in range(200):
            model.observe(n=np.array(number))
        for done in waiting:
            done.result(60)
    assert got == Counter(range(200))


def test_each_thread_may_have_a_handle_and_a_model_of_its_own(peer: Any, open_connection: Open) -> None:
    connection = open_connection()

    def drive(model_id: str) -> None:
        model = connection.model(model_id)
        for number in range(50):
            model.observe(n=np.array(number))
            result = model.get_result(WAIT_MS)
            assert result is not None
            assert (result["model_id"], int(result["actions"])) == (model_id, number)

    with peer.serving(), ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(drive, f"m{number}") for number in range(6)]:
            done.result(60)
    assert connection.stats.results == 300
    assert connection.stats.unmatched == 0


def test_a_waiter_whose_time_is_over_hands_the_socket_to_the_next(
    peer: Any, open_connection: Open, result_for: Any
) -> None:
    model = open_connection().model("m", queue="all")
    leading = threading.Event()

    def short() -> Any:
        leading.set()
        return model.get_result(100)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(short)
        leading.wait(10)
        second = pool.submit(model.get_result, WAIT_MS)
        assert first.result(10) is None
        model.observe(n=np.array(5))
        seen = peer.receive()
        peer.send(seen, result_for(seen))
        result = second.result(10)
        assert result is not None
        assert result["actions"] == 5


def test_a_newer_observation_of_another_thread_is_told_to_the_one_that_infers(
    peer: Any, open_connection: Open, refusal_for: Any
) -> None:
    model = open_connection().model("m")
    with ThreadPoolExecutor(1) as pool:
        inferring = pool.submit(model.infer, WAIT_MS)
        seen = peer.receive()
        model.observe()
        peer.send(seen, refusal_for(seen, "SUPERSEDED"))
        with pytest.raises(RequestSuperseded):
            inferring.result(10)


def test_closing_while_many_wait_wakes_them_all(peer: Any, open_connection: Open) -> None:
    connection = open_connection()
    model = connection.model("m")
    begun = threading.Barrier(9, timeout=10)

    def wait() -> None:
        begun.wait()
        with pytest.raises(ConnectionError):
            model.get_result(WAIT_MS)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait) for _ in range(8)]
        begun.wait()
        while not connection._leading:  # one of them sleeps on the socket now
            threading.Event().wait(0.001)
        connection.close()
        for done in waiting:
            done.result(10)


def test_threads_that_close_at_once_all_return(open_connection: Open) -> None:
    for _ in range(20):
        connection = open_connection()
        model = connection.model("m")
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(connection.close) for _ in range(3)]

            def wait(model: Any = model) -> None:
                with pytest.raises(ConnectionError):
                    model.get_result(WAIT_MS)

            jobs.append(pool.submit(wait))
            for job in jobs:
                job.result(10)
