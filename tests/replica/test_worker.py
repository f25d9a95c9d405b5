"""A worker process by itself: its server's end of the stream is the test's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferential import ModelProcess
from inferential.proto import inferential_pb2 as pb
from inferential.proto.tensors import pack
from inferential.replica.spawn import spawn
from inferential.replica.stream import ANNOUNCEMENT, Frame, MessageReader, write_message
from inferential.replica.wire import CALL, HELLO, NO_CALL, RESULT, write_head

if sys.platform != "linux":
    pytest.skip("what it reads of processes is Linux's", allow_module_level=True)

_CALLS = 50


class _Server:
    """Its end of the stream."""

    def __init__(self, connected: socket.socket) -> None:
        self.connected = connected
        self.connected.settimeout(120)
        self._messages = MessageReader()

    def send(self, *frames: bytes) -> None:
        for buffer in write_message(frames):
            self.connected.sendall(buffer)

    def receive(self) -> list[Frame]:
        while True:
            data = self.connected.recv(65536)
            assert data, "the worker has ended"
            self._messages.feed(data)
            for frames in self._messages.take():
                return frames


def _switches(pid: int) -> int:
    """How often the process has gone to sleep."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        os.sched_yield()


def _load(server: _Server) -> None:
    settings: dict[str, Any] = {"model_id": "policy", **ModelProcess("policy:policy").settings()}
    server.send(NO_CALL, HELLO, json.dumps(settings).encode())
    assert server.receive()[1] == HELLO


def _call(number: int) -> list[bytes]:
    message = pb.Observation()
    payload = bytes(pack(message.tensors, {"state": np.zeros(4, np.float32)}))
    return [number.to_bytes(8, "little"), CALL, write_head(0, [None]), message.SerializeToString(), payload]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[_Server, int]]:
    """The server's end of a worker that has loaded a model, and its process id."""
    (tmp_path / "policy.py").write_text("def policy(observation):\n    return observation['state']\n")
    spawned = asyncio.run(spawn(None, {"PYTHONPATH": str(tmp_path)}))
    try:
        server = _Server(spawned.connected)
        _load(server)
        yield server, spawned.pid
    finally:
        spawned.discard()


def test_it_sleeps_on_while_its_answers_are_read(worker: tuple[_Server, int]) -> None:
    server, pid = worker
    before = 0
    for number in range(1, _CALLS + 2):
        server.send(*_call(number))
        select.select([server.connected], [], [], 120)
        _until(lambda: _sleeps(pid))
        assert server.receive()[1] == RESULT
        for _ in range(100):  # it takes milliseconds to look so often, in which it would wake up
            _sleeps(pid)
        before = before or _switches(pid)
    assert _switches(pid) - before < 1.5 * _CALLS


def test_it_sleeps_where_no_call_follows_the_announcement_of_one(worker: tuple[_Server, int]) -> None:
    server, pid = worker
    for number in range(1, 3):
        server.connected.sendall(ANNOUNCEMENT)
        _until(lambda: _sleeps(pid))
        server.send(*_call(number))
        assert server.receive()[1] == RESULT


def test_the_models_name_stands_in_the_list_of_processes() -> None:
    spawned = asyncio.run(spawn(None, {}, name="arm \u03b2\0"))
    try:
        assert Path(f"/proc/{spawned.pid}/cmdline").read_text().split("\0")[-2] == r"arm \u03b2\x00"
    finally:
        spawned.discard()
