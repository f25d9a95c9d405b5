"""How many bytecodes a whole server runs for one request; `opcodes` has those of single parts.

Robots ask, and ask again once all are answered; what they do is not counted, and neither is asyncio, nor a model's
process. The clock goes on by a microsecond each time it is read: counting takes so much longer than the work itself
that the server would go by it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np

import inferential
from bench.overload.wire import Frames, Observations, connect
from inferential import LocalDispatcher, ModelProcess, ModelThread, Server

_COUNTED = 256
_WARM = 64
_BATCH = "bench.overload.models:Batch"
_ACTIONS = np.zeros(8, np.float32)
_FOLDER = inferential.__path__[0]


async def _policy(observation: dict[str, Any]) -> Any:
    return {"actions": _ACTIONS}


def _function(observation: dict[str, Any]) -> Any:
    return {"actions": _ACTIONS}


def served() -> dict[str, int]:
    """Returns the bytecodes for one answer, by what answers: to the only robot, or to one of 64 in the same call."""
    cases = {
        "coroutine": (_policy, 1),
        "thread": (ModelThread(_function), 1),
        "process": (ModelProcess(_BATCH), 1),
        "row of 64, process": (ModelProcess(_BATCH), 64),
    }
    return {f"served, {name}": asyncio.run(_served(*case)) for name, case in cases.items()}


class _Robot:
    """A robot's socket, and what it sends."""

    def __init__(self, address: str, name: str) -> None:
        self.socket: socket.socket
        self.frames: Frames
        self.socket, self.frames = connect(address, name.encode())
        self.messages = Observations(name, "policy")


async def _served(model: Any, robots: int) -> int:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"policy": model})) as server:
        fleet = [await asyncio.to_thread(_Robot, server.address, f"robot-{number}") for number in range(robots)]
        try:
            await _ask(fleet, range(1, 1 + _WARM))
            numbers, used = range(1 + _WARM, 1 + _WARM + _COUNTED // min(robots, 16)), time.thread_time()
            clock = itertools.count(time.monotonic(), 1e-6)
            with patch("time.monotonic", clock.__next__), patch("time.thread_time", lambda: used):
                asked = asyncio.create_task(_ask(fleet, numbers))
                count = await _counted(asked)
        finally:
            for robot in fleet:
                robot.socket.close()
    return round(count / len(numbers) / robots)


async def _ask(fleet: Sequence[_Robot], numbers: Sequence[int]) -> None:
    """Has each robot ask with these request ids, once all have the answers to the one before.

    They send from the thread of the server, which finds all of them at once so: how many rows a call has is no chance.
    """
    for number in numbers:
        for robot in fleet:
            robot.socket.sendall(robot.messages.message(number, time.time_ns()))
        await asyncio.to_thread(_receive, fleet)


def _receive(fleet: Sequence[_Robot]) -> None:
    for robot in fleet:
        while not any(isinstance(found, list) for found in robot.frames.feed(robot.socket.recv(4096))):
            pass


async def _counted(asked: asyncio.Task[None]) -> int:
    """Returns how many bytecodes of this package run until a task has ended."""
    count = 0

    def count_one(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        nonlocal count
        count += event == "opcode"
        return count_one

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith((_FOLDER, "<string>")):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return count_one

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        await asked
    finally:
        sys.settrace(before)
    return count
