"""Threads that share one connection: no response is lost, and no thread sleeps too long."""

from __future__ import annotations

import gc
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferential import Connection, RequestSuperseded
from inferential.client import sync
from inferential.client.mailbox import Mailbox
from inferential.client.session import Session
from inferential.client.transport import ClientTransport

pytestmark = pytest.mark.usefixtures("patient")
WAIT_MS = 60_000
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
        leading.wait(60)
        second = pool.submit(model.get_result, WAIT_MS)
        assert first.result(60) is None
        model.observe(n=np.array(5))
        seen = peer.receive()
        peer.send(seen, result_for(seen))
        result = second.result(60)
        assert result is not None
        assert result["actions"] == 5


def test_latest_gives_what_has_come_though_another_handle_read_an_older_result(
    peer: Any, open_connection: Open, result_for: Any
) -> None:
    connection = open_connection()
    model, other = connection.model("m"), connection.model("other")
    for number in range(2):
        model.observe(n=np.array(number))
        seen = peer.receive()
        peer.send(seen, result_for(seen))
        if number == 0:
            while not connection.stats.results:
                other.get_result(1)
    until(lambda: unread_bytes(peer.address) >= sum(map(len, result_for(seen))))
    result = model.get_result(0)
    assert result is not None
    assert result["actions"] == 1


class Scripted:
    """A transport in the test's hands: what is sent goes nowhere, and nothing comes."""

    def __init__(self) -> None:
        self._never, self._other = socket.socketpair()
        self.fd = self._never.fileno()
        self.writable = True
        self.closed = False
        self.poll_at = math.inf
        self.pumped = threading.Event()

    @property
    def last_error(self) -> str | None:
        return None

    def next_poll_at(self) -> float:
        return self.poll_at

    def idle(self) -> bool:
        return self.writable

    def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Any) -> bool:
        return False

    def pump(self, session: Session) -> int:
        self.pumped.set()
        return 0

    def close(self) -> None:
        self.closed = True
        self._never.close()
        self._other.close()


def open_with(transport: ClientTransport, monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setattr(sync, "open_transport", lambda *_: transport)
    return Connection("localhost:5555", "robot")


def test_an_answer_that_comes_while_the_rest_is_sent_is_not_slept_on(
    talk: Any, result_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AnswersWhileSending(Scripted):
        answer: Any = None

        def next_poll_at(self) -> float:
            assert self.answer is None or not self.writable, "it sleeps"
            return math.inf

        def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Any) -> bool:
            self.writable = False
            self.answer = result_for(talk.seen(frames))
            return False

        def pump(self, session: Session) -> int:
            if self.writable:
                return 0
            self.writable = True
            session.receive(*self.answer, now=0.0)
            return 1

    with open_with(AnswersWhileSending(), monkeypatch) as connection:
        result = connection.model("m", queue="all").infer(WAIT_MS, n=np.array(3))
    assert result is not None
    assert result["actions"] == 3


def test_who_waits_for_another_thread_first_sleeps_no_longer_than_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Scripted):
        held, free = threading.Event(), threading.Event()

        @property
        def last_error(self) -> str | None:
            self.held.set()  # by the caller: the connection is in use meanwhile
            self.free.wait(60)
            return None

    class Clock:
        now = 100.0
        asked = threading.Event()

        def monotonic(self) -> float:
            now = self.now
            self.asked.set()
            return now

    transport, clock = Busy(), Clock()
    with open_with(transport, monkeypatch) as connection, ThreadPoolExecutor(2) as pool:
        model = connection.model("m")
        monkeypatch.setattr(sync, "time", clock)
        pool.submit(lambda: connection.last_error)
        assert transport.held.wait(60)
        waiting = pool.submit(model.get_result, 100)
        assert clock.asked.wait(60)
        clock.now += 5.0
        transport.free.set()
        assert waiting.result(60) is None  # else it would sleep again and again: its clock stands still


def test_infer_raises_when_another_thread_sent_a_newer_observation(
    peer: Any, open_connection: Open, refusal_for: Any
) -> None:
    model = open_connection().model("m")
    with ThreadPoolExecutor(1) as pool:
        inferring = pool.submit(model.infer, WAIT_MS)
        seen = peer.receive()
        model.observe()
        peer.send(seen, refusal_for(seen, "SUPERSEDED"))
        with pytest.raises(RequestSuperseded):
            inferring.result(60)


def test_closing_while_many_wait_wakes_them_all(peer: Any, open_connection: Open) -> None:
    connection = open_connection()
    model = connection.model("m")
    begun = threading.Barrier(9, timeout=60)

    def wait() -> None:
        begun.wait()
        with pytest.raises(ConnectionError):
            model.get_result(WAIT_MS)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait) for _ in range(8)]
        begun.wait()
        until(lambda: connection.waiting)  # one of them sleeps on the socket now
        connection.close()
        for done in waiting:
            done.result(60)


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
                job.result(60)


class OneHourLater:
    """What `time` is to a robot that slept."""

    time_ns = time.time_ns

    @staticmethod
    def monotonic() -> float:
        return time.monotonic() + 3600.0


def unread_bytes(address: str) -> int:
    """The bytes that lie unread in this machine's sockets that are connected to an address."""
    port, count = int(address.rpartition(":")[2]), 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, _, queues, *_ = line.split()
        if int(remote.rpartition(":")[2], 16) == port:
            count += int(queues.rpartition(":")[2], 16)
    return count


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


def test_the_first_observation_may_come_while_another_thread_waits_already(
    peer: Any, open_connection: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "FIRST_CONNECT_MS", 50)
    peer.stop()
    connection = open_connection()
    model = connection.model("m", queue="all")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.get_result, WAIT_MS)
        until(lambda: connection.waiting)
        model.observe(n=np.array(1))  # waits for the connection, on the same descriptor
        peer.start()
        with peer.serving():
            result = waiting.result(60)
        assert result is not None
        assert result["actions"] == 1


def test_a_large_observation_may_wait_for_room_while_another_thread_waits_for_results(
    peer: Any, open_connection: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "FULL_SOCKET_MS", 50)
    connection = open_connection()
    model = connection.model("m", queue="all")
    image = np.zeros(20_000_000, np.uint8)
    with ThreadPoolExecutor(1) as pool:
        model.observe(n=np.array(1))
        waiting = pool.submit(model.get_result, WAIT_MS)
        until(lambda: connection.waiting)
        model.observe(n=np.array(2), image=image)
        with peer.serving():
            assert waiting.result(60)["actions"] == 1


def test_a_lost_server_is_found_again_without_a_waiting_call(
    peer: Any, open_connection: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "FULL_SOCKET_MS", 5)
    connection = open_connection()
    model = connection.model("m")
    model.observe(n=np.array(1))
    peer.receive()
    peer.stop()

    def lost() -> bool:
        model.observe(n=np.array(0))
        return connection.last_error is not None

    until(lost)
    model.observe(n=np.array(2))
    peer.start()
    assert peer.receive().values["n"] == 2


def test_a_robot_that_slept_while_its_server_restarted_loses_no_observation(
    peer: Any, open_connection: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "FULL_SOCKET_MS", 5)
    connection = open_connection()
    model = connection.model("m", queue="all")
    model.observe(n=np.array(1))
    peer.receive()
    peer.stop()
    peer.start()
    monkeypatch.setattr(sync, "time", OneHourLater)
    model.observe(n=np.array(2))
    assert peer.receive().values["n"] == 2


def descriptors_and_threads() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it was not closed, which is reported and costs nothing
@pytest.mark.parametrize("server", ["there", "away"])
def test_a_connection_that_was_not_closed_leaves_no_descriptor_and_no_thread(
    server: str, peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "BACKGROUND_PUMP_S", 0.01)
    monkeypatch.setattr(sync, "FIRST_CONNECT_MS", 10_000 if server == "there" else 5)
    if server == "away":
        peer.stop()
    before = descriptors_and_threads()
    connection = Connection(peer.address, "robot")
    model = connection.model("m")
    model.observe()
    model.get_result(1)
    del connection, model
    if server == "there":
        peer.receive()
    until(lambda: descriptors_and_threads() <= before)


def test_closing_while_the_server_is_away_ends_the_thread_that_looks_for_it(
    peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "FIRST_CONNECT_MS", 5)
    peer.stop()
    threads = {*threading.enumerate()}
    connection = Connection(peer.address, "robot", reconnect_ivl_ms=10_000)
    connection.model("m").observe()
    (looks,) = {*threading.enumerate()} - threads
    connection.close()
    until(lambda: not looks.is_alive())


def test_a_thread_that_waits_connects_anew_though_the_one_that_leads_sleeps_on(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Scripted()
    connection = open_with(transport, monkeypatch)
    model = connection.model("m", queue="all")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(model.get_result, WAIT_MS)]
        until(lambda: connection.waiting)
        # As another thread found the connection gone: the leader knows nothing of it.
        transport.pumped.clear()
        transport.poll_at = time.monotonic() + 0.05
        waiting.append(pool.submit(model.get_result, WAIT_MS))
        assert transport.pumped.wait(60)
        connection.close()
        for one in waiting:
            with pytest.raises(ConnectionError):
                one.result(60)
