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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import machine
from inferential import Connection, LocalDispatcher, ModelProcess, Server
from inferential.replica.channel import Stream as WorkerStream
from inferential.server.executor import Executor
from inferential.server.pump import EventPump
from inferential.zmtp import Stream

_WARM_UP = 500
_MODELS = Path(__file__).parent / "overhead" / "models"
_WORKERS_MARKS = ("worker woken", "model called", "result written")
_BEGIN = (
    ("client: the observation is written", "observation written"),
    ("system: it is sent, and the server wakes", "server woken"),
    ("server: the message is read", "message read"),
    ("server: it is checked, and goes straight to its model", "call begun"),
)
_END = (
    ("system: it is sent, and the client wakes", "client woken"),
    ("client: the answer is read", "answered"),
)
STAGES = (
    *_BEGIN,
    ("server: the model's tensors are read", "model called"),
    ("server: the answer is written", "answer written"),
    *_END,
)
"""Titles, and what is marked where each ends; of a coroutine on the server's event loop."""
PROCESS_STAGES = (
    *_BEGIN,
    ("server: the call is written", "call written"),
    ("system: the call is sent, and the worker wakes", "worker woken"),
    ("worker: the call is read", "model called"),
    ("worker: the result is written", "result written"),
    ("system: the result is sent, and the server wakes", "woken by the worker"),
    ("server: the result is read, and the answer written", "answer written"),
    *_END,
)
"""The same, of a function in a process of its own."""


def run(seconds: float) -> dict[str, Any]:
    """Microseconds of each stage, of one client that asks again and again for `seconds`."""
    in_process = _budget("process", PROCESS_STAGES, seconds)
    return {"machine": machine(), "unit": "us", **_budget("coroutine", STAGES, seconds), "process": in_process}


def _budget(place: str, stages: Sequence[tuple[str, str]], seconds: float) -> dict[str, Any]:
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.stages", place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        marks = _ask(server.stdout.readline().strip(), seconds, reports=place == "process")
        printed, _ = server.communicate("")
    finally:
        server.kill()
        server.wait()
    marks |= {name: np.array(times) for name, times in json.loads(printed).items()}
    whole = marks["answered"] - marks["asked"]
    low, high = np.percentile(whole, [25, 75])
    usual = (whole >= low) & (whole <= high)
    found, before = {}, marks["asked"]
    for title, name in stages:
        # Of marks that are made more often than once a request (connections, heartbeats), the first one in question.
        end = marks[name] if len(marks[name]) == len(before) else _first_after(marks[name], before)
        found[title] = round(float((end - before)[usual].mean()) / 1e3, 1)
        before = end
    return {"round_trip": round(float(whole[usual].mean()) / 1e3, 1), "stages": found}


def _ask(address: str, seconds: float, *, reports: bool) -> dict[str, np.ndarray[Any, Any]]:
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
        report = model.infer(10_000, report=np.zeros(1)) if reports else None
    # Not those of heartbeats.
    marks["observation written"] = _first_after(marks["observation written"], marks["asked"]).tolist()
    marks["client woken"] = _last_before(marks["client woken"], marks["answered"]).tolist()
    found = {name: np.array(times) for name, times in marks.items()}
    return found if report is None else found | {name: report[name] for name in _WORKERS_MARKS}


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


def _serve(place: str) -> None:
    """The server's process: tells its address, and, once its input ends, its marks."""
    names = [name for _, name in (STAGES if place == "coroutine" else PROCESS_STAGES)]
    marks: dict[str, list[int]] = {name: [] for name in names}
    action = np.zeros(16, dtype=np.float32)

    async def coroutine(observation: dict[str, Any]) -> dict[str, Any]:
        marks["model called"].append(time.perf_counter_ns())
        return {"actions": action}

    _mark_before(EventPump, "_on_readable", marks["server woken"])
    _mark_before(EventPump, "receive", marks["message read"])
    _mark_before(Executor, "run_inline", marks["call begun"])
    _mark_before(Stream, "_send", marks["answer written"])
    model: Any = coroutine
    if place == "process":
        _mark_before(WorkerStream, "_send", marks["call written"])
        _mark_before(WorkerStream, "_on_readable", marks["woken by the worker"])
        model = ModelProcess("marked_policy:policy", env={"PYTHONPATH": str(_MODELS)})

    async def main() -> None:
        async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"policy": model})) as server:
            await server.model_ready("policy")
            print(server.address, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main())
    print(json.dumps({name: times for name, times in marks.items() if times}))


if __name__ == "__main__":
    _serve(sys.argv[1])
