"""What `inferential serve` survives of its machine: a clock that is set, a suspend, memory that runs out."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bench.overload.serving import Serving
from bench.overload.wire import PING, PONG, Frames, Observations, connect, frame

from inferential import Connection
from inferential.proto import ModelResponse, Status

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's signals and limits")

MODELS = {"single": "bench.overload.models:single"}
SUSPENDED_S = 5.0
HOUR_S = 3600
OF_CLOCKS_S = (100, -100, -(2**36), 2**32 + 100, 2**63 // 10**9 + 100)
"""Just after and before 1970, long before; after 32 bits of seconds, and 63 of nanoseconds."""
ON_SIGNAL = """
import signal
def _run(*_):
    with open({path!r}) as pipe:
        exec(pipe.read(), globals())
signal.signal(signal.SIGUSR1, _run)
"""
CLOCK = """
import time
_time, _time_ns, off_s = time.time, time.time_ns, 0
time.time = lambda: _time() + off_s
time.time_ns = lambda: _time_ns() + off_s * 10**9
"""


class Machine:
    """A server whose process runs what it is sent."""

    def __init__(self, serving: Serving, pipe: Path) -> None:
        self.serving = serving
        self._pipe = pipe

    def tell(self, text: str) -> None:
        """Has the server's main thread run some Python before anything else."""
        self.serving.process.send_signal(signal.SIGUSR1)
        self._pipe.write_text(text)  # returns once it is read


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = CLOCK + ON_SIGNAL.format(path=str(pipe))
    with Serving(MODELS, tmp_path / "log", before=before, observations={"max_payload_bytes": 2**28}) as serving:
        yield Machine(serving, pipe)
        assert serving.stop() == 0


def responses(robot: socket.socket, frames: Frames) -> Iterator[ModelResponse]:
    """What comes, as long as something does."""
    while data := robot.recv(65536):
        for found in frames.feed(data):
            if isinstance(found, bytes):
                if found.startswith(PING):
                    robot.sendall(frame(PONG + found[7:], 4))
            else:
                yield ModelResponse.FromString(found[1])


def test_robots_are_served_whatever_the_server_s_clock_is_set_to_meanwhile(machine: Machine) -> None:
    state = np.ones(7, np.float32)
    with Connection(machine.serving.address, "robot") as robot:
        now_s = int(time.time())
        for off_s in (0, -HOUR_S, 48 * HOUR_S, *(at_s - now_s for at_s in OF_CLOCKS_S), 0):
            machine.tell(f"off_s = {off_s}")
            for _ in range(3):
                assert robot.model("single").infer(60_000, state=state) is not None
        with Connection(machine.serving.address, "newcomer") as newcomer:
            machine.tell(f"off_s = {-HOUR_S}")
            assert newcomer.model("single").infer(60_000, state=state) is not None
    assert machine.serving.log_text().count("client robot: timestamp") <= 1
    assert "Traceback" not in machine.serving.log_text()


def test_each_request_ends_once_that_was_sent_before_or_during_a_suspend(machine: Machine) -> None:
    robot, frames = connect(machine.serving.address, b"robot", timeout_s=60.0)
    messages = Observations("robot", "single", "all")
    with robot:
        robot.sendall(b"".join(messages.message(number, time.time_ns()) for number in range(1, 21)))
        machine.serving.process.suspend()
        robot.sendall(b"".join(messages.message(number, time.time_ns()) for number in range(21, 41)))
        time.sleep(SUSPENDED_S)
        machine.serving.process.resume()
        ended: Counter[int] = Counter()
        for response in responses(robot, frames):
            ended[response.request_id] += 1
            if len(ended) == 40:
                break
        robot.sendall(messages.message(41, time.time_ns()))
        for response in responses(robot, frames):
            ended[response.request_id] += 1
            if response.request_id == 41:
                assert response.status == Status.OK
                break
    assert ended == Counter(range(1, 42))


def test_robots_of_the_sdk_get_their_answers_after_a_suspend(machine: Machine) -> None:
    state = np.ones(7, np.float32)
    with Connection(machine.serving.address, "robot") as robot:
        assert robot.model("single").infer(60_000, state=state) is not None
        machine.serving.process.suspend()
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(robot.model("single").infer, 60_000, state=state)
            time.sleep(SUSPENDED_S)
            machine.serving.process.resume()
            assert waits.result() is not None
        assert robot.model("single").infer(60_000, state=state) is not None


def test_where_memory_runs_out_a_connection_ends_and_others_are_served(machine: Machine) -> None:
    state = np.ones(7, np.float32)
    with Connection(machine.serving.address, "good") as good:
        assert good.model("single").infer(60_000, state=state) is not None
        greedy, frames = connect(machine.serving.address, b"greedy", timeout_s=60.0)
        machine.tell(
            "import logging, resource, psutil\n"
            "logging.getLogger('inferential').setLevel('INFO')\n"
            "limit = psutil.Process().memory_info().vms + 2**25\n"
            "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))"
        )
        with greedy:
            envelope = Observations("greedy", "single").envelope(1, time.time_ns())
            size = 200 * 2**20
            greedy.sendall(frame(b"", 1) + frame(envelope, 1) + bytes((2,)) + size.to_bytes(8, "big") + bytes(4096))
            assert not list(responses(greedy, frames))  # its connection has ended
        for _ in range(3):
            assert good.model("single").infer(60_000, state=state) is not None
        with Connection(machine.serving.address, "newcomer") as newcomer:
            assert newcomer.model("single").infer(60_000, state=state) is not None
    assert "no memory for a frame of" in machine.serving.log_text()
