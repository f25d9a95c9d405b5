"""How many bytecodes a whole server runs for one request; `opcodes` has those of single parts.

A robot asks one request after another; its thread is not counted, and neither is asyncio. The clock goes on by
a microsecond each time it is read: counting takes so much longer than the work itself that the server would go by it.
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
from inferential import LocalDispatcher, Server

_WARM, _COUNTED = 64, 256
_ACTIONS = np.zeros(8, np.float32)
_FOLDER = inferential.__path__[0]


async def _policy(observation: dict[str, Any]) -> Any:
    return {"actions": _ACTIONS}


def served() -> int:
    """Returns the bytecodes for one answer of a coroutine model to the only robot."""
    return asyncio.run(_served())


async def _served() -> int:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"policy": _policy})) as server:
        connected, frames = await asyncio.to_thread(connect, server.address, b"robot-1")
        with connected:
            messages = Observations("robot-1", "policy")
            await asyncio.to_thread(_ask, connected, frames, messages, range(1, 1 + _WARM))
            numbers, used = range(1 + _WARM, 1 + _WARM + _COUNTED), time.thread_time()
            clock = itertools.count(time.monotonic(), 1e-6)
            with patch("time.monotonic", clock.__next__), patch("time.thread_time", lambda: used):
                asked = asyncio.create_task(asyncio.to_thread(_ask, connected, frames, messages, numbers))
                count = await _counted(asked)
    return round(count / _COUNTED)


def _ask(connected: socket.socket, frames: Frames, messages: Observations, numbers: Sequence[int]) -> None:
    """Asks with these request ids, each once the one before is answered."""
    for number in numbers:
        connected.sendall(messages.message(number, time.time_ns()))
        while not any(isinstance(found, list) for found in frames.feed(connected.recv(4096))):
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
