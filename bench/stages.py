"""Where the time of one small request goes: a budget by stages that adds up to the round trip.

Client and server are processes of their own; both read the clock that all processes of a machine share where a stage
ends. Reading it is in the figures, a fraction of a microsecond each time. Of the round trips the middle half by length
is averaged, so that the stages add up to the whole.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import machine
from inferential import Connection, LocalDispatcher, Server
from inferential.server.executor import Executor
from inferential.server.pump import EventPump
from inferential.zmtp import Stream

_WARM_UP = 500
_MARKS = ("server woken", "message read", "call begun", "model called", "answer written")
STAGES = (
    ("client: the observation is written", "asked", "observation written"),
    ("system: it is sent, and the server wakes", "observation written", "server woken"),
    ("server: the message is read", "server woken", "message read"),
    ("server: it is checked, and goes straight to its model", "message read", "call begun"),
    ("server: the model's tensors are read", "call begun", "model called"),
    ("server: the answer is written", "model called", "answer written"),
    ("system: it is sent, and the client wakes", "answer written", "client woken"),
    ("client: the answer is read", "client woken", "answered"),
)


def run(seconds: float) -> dict[str, Any]:
    """Microseconds of each stage, of one client that asks again and again for `seconds`."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.stages"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        client = _ask(server.stdout.readline().strip(), seconds)
        printed, _ = server.communicate("")
    finally:
        server.kill()
        server.wait()
    times = client | {name: np.array(marks[_WARM_UP:]) for name, marks in json.loads(printed).items()}
    whole = times["answered"] - times["asked"]
    low, high = np.percentile(whole, [25, 75])
    usual = (whole >= low) & (whole <= high)
    stages = {title: round(float((times[end] - times[begin])[usual].mean()) / 1e3, 1) for title, begin, end in STAGES}
    return {
        "machine": machine(),
        "unit": "us",
        "round_trip": round(float(whole[usual].mean()) / 1e3, 1),
        "stages": stages,
    }


def _ask(address: str, seconds: float) -> dict[str, np.ndarray[Any, Any]]:
    marks: dict[str, list[int]] = {"asked": [], "observation written": [], "client woken": [], "answered": []}
    state = np.zeros(16, dtype=np.float32)
    state.setflags(write=False)
    with Connection(address) as connection:
        model = connection.model("policy", queue="all")
        for _ in range(_WARM_UP):
            model.infer(10_000, state=state)
        _mark_before(Stream, "_send", marks["observation written"])
        _mark_after(Connection, "_wait_as_leader", marks["client woken"])
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            marks["asked"].append(time.perf_counter_ns())
            if model.infer(10_000, state=state) is None:
                raise TimeoutError("no answer within 10 s")
            marks["answered"].append(time.perf_counter_ns())
    # Not those of heartbeats.
    marks["observation written"] = _first_after(marks["observation written"], marks["asked"]).tolist()
    marks["client woken"] = _last_before(marks["client woken"], marks["answered"]).tolist()
    return {name: np.array(times) for name, times in marks.items()}


def _mark_before(owner: Any, name: str, marks: list[int]) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    def marked(*args: Any) -> Any:
        marks.append(time.perf_counter_ns())
        return function(*args)

    setattr(owner, name, marked)


def _mark_after(owner: Any, name: str, marks: list[int]) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    def marked(*args: Any) -> Any:
        result = function(*args)
        marks.append(time.perf_counter_ns())
        return result

    setattr(owner, name, marked)


def _last_before(marks: Any, times: Any) -> np.ndarray[Any, Any]:
    """Of marks that are made more often than once a request, for each of the times the last one before it."""
    marks = np.array(marks)
    return marks[np.searchsorted(marks, times) - 1]


def _first_after(marks: Any, times: Any) -> np.ndarray[Any, Any]:
    """The same, the first one after it."""
    marks = np.array(marks)
    return marks[np.searchsorted(marks, times)]


def _serve() -> None:
    """The server's process: tells its address, and, once its input ends, its marks."""
    marks: dict[str, list[int]] = {name: [] for name in _MARKS}
    sent: list[int] = []
    action = np.zeros(16, dtype=np.float32)

    async def model(observation: dict[str, Any]) -> dict[str, Any]:
        marks["model called"].append(time.perf_counter_ns())
        return {"actions": action}

    _mark_before(EventPump, "_on_readable", marks["server woken"])
    _mark_before(EventPump, "receive", marks["message read"])
    _mark_before(Executor, "run_inline", marks["call begun"])
    _mark_before(Stream, "_send", sent)

    async def main() -> None:
        async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"policy": model})) as server:
            print(server.address, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main())
    marks["server woken"] = _last_before(marks["server woken"], marks["message read"]).tolist()  # not for connections
    marks["answer written"] = _first_after(sent, marks["model called"]).tolist()  # not of handshakes
    print(json.dumps(marks))


if __name__ == "__main__":
    _serve()
