"""Policies from files behind the scheduler, beside their own libraries called in a loop: batched rows per second.

16 robots ask a policy as fast as they are answered; an ONNX policy whose batch of 8 takes about 5 ms, the same network
as TorchScript, and a small ACT policy of LeRobot. Beside each: its library called in a loop with batches of 8, and of
as many rows as the fleet's batches had, in a process of its own. Both use one thread for the model, and take turns: the
machine's own pace changes, so each turn is compared with the library before and after it. In the worker it is measured
how long a call takes and what lies between two, and of each process how much CPU time it has for an answer: of the
worker what the model's own calls leave. As server and robots keep another core busy, which may be half of the model's
own, the library is called beside a busy core too. TorchScript and LeRobot are measured where TORCH_PYTHON and
LEROBOT_PYTHON name interpreters that have them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import serving
from bench.policy_backends import BATCH, Backend, layers_of, lerobot_backend, onnx_backend, torchscript_backend
from bench.policy_times import Times, new_times
from inferential import AsyncConnection, ModelProcess
from inferential.replica.usage import use_of

ROBOTS = 16


def run(seconds: float) -> dict[str, Any]:
    """Rows per second of both, for each backend that is there; `seconds` for each, over all turns."""
    found = {kind: case(seconds) for kind, case in CASES.items()}
    return {"robots": ROBOTS, **{kind: one for kind, one in found.items() if one}}


def _case(kind: str, seconds: float) -> dict[str, Any]:
    """Measures one backend; nothing where no interpreter has it."""
    with tempfile.TemporaryDirectory() as name:
        backend = _MAKE[kind](Path(name))
        return {} if backend is None else _measured(backend, Path(name), seconds)


def _torchscript(folder: Path) -> Backend | None:
    return torchscript_backend(folder, layers_of(onnx_backend(folder)))


_MAKE: dict[str, Callable[[Path], Backend | None]] = {
    "onnx": onnx_backend,
    "torchscript": _torchscript,
    "lerobot": lerobot_backend,
}
CASES = {kind: partial(_case, kind) for kind in _MAKE}
SAVES_CASES = True


@dataclass(frozen=True)
class _Turn:
    """What robots had of a served policy.

    Attributes:
        rows_per_s: how many answers.
        rows: of a batch.
        times: of the worker.
        robots_cpu, server_cpu: CPU seconds for an answer, of the process of all robots and of the server's.
    """

    rows_per_s: float
    rows: float
    times: Times
    robots_cpu: float
    server_cpu: float


def _measured(backend: Backend, folder: Path, seconds: float) -> dict[str, Any]:
    turns: list[_Turn] = []
    direct: list[float] = []
    alike: list[float] = []
    beside: list[float] = []
    seconds /= backend.turns
    paces = [backend.rows_per_s(seconds)]
    for number in range(backend.turns):
        path = folder / f"times-{number}"
        times = new_times(path)
        with serving(_Models(backend, path), ready_s=90.0) as address:
            turns.append(asyncio.run(_robots(address, backend, seconds, times)))
        paces.append(backend.rows_per_s(seconds))
        direct.append((paces[-2] + paces[-1]) / 2)
        size = round(turns[-1].rows)
        alike.append(direct[-1] if size == BATCH else backend.rows_per_s(seconds, size))
        with _busy_core():
            beside.append(backend.rows_per_s(seconds))
    served = [turn.rows_per_s for turn in turns]
    return {
        "batch_of_8_ms": round(BATCH / statistics.median(direct) * 1e3, 2),
        "library_rows_per_s": round(statistics.median(direct)),
        "library_beside_a_busy_core_rows_per_s": round(statistics.median(beside)),
        "served_rows_per_s": round(statistics.median(served)),
        "share": _share(served, direct),
        "share_of_like_batches": _share(served, alike),
        "share_beside_a_busy_core": _share(served, beside),
        **_costs(turns),
        "library_turns": [round(one) for one in direct],
        "served_turns": [round(one) for one in served],
    }


def _costs(turns: list[_Turn]) -> dict[str, Any]:
    """Returns what calls took, and the CPU time for an answer of each process, over all turns."""
    total = Times(*np.sum([turn.times for turn in turns], axis=0).tolist())
    rows = statistics.mean(turn.rows for turn in turns)
    beside_the_model = (total.process - total.cpu) / total.calls / rows
    return {
        "rows_of_a_batch": round(rows, 2),
        "call_ms": round(total.running / total.calls * 1e3, 2),
        "call_cpu_ms": round(total.cpu / total.calls * 1e3, 2),
        "between_calls_ms": round(total.between / total.calls * 1e3, 2),
        "cpu_us_of_an_answer": {
            "robots": round(statistics.mean(turn.robots_cpu for turn in turns) * 1e6),
            "server": round(statistics.mean(turn.server_cpu for turn in turns) * 1e6),
            "worker_beside_the_model": round(beside_the_model * 1e6),
        },
    }


@contextmanager
def _busy_core() -> Iterator[None]:
    """Keeps one core busy with what shares no memory with the library: a loop in Python."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _share(served: list[float], direct: list[float]) -> float:
    return round(statistics.median(ours / theirs for ours, theirs in zip(served, direct, strict=True)), 3)


class _Models:
    """Makes the models in the server's process; a function within a function cannot be sent there."""

    def __init__(self, backend: Backend, times: Path) -> None:
        self._args = {"target": backend.target, "times": str(times), **backend.args}
        self._python, self._env = backend.python, {**backend.env, "PYTHONPATH": str(Path(__file__).parents[1])}

    def __call__(self) -> dict[str, Any]:
        return {"policy": ModelProcess("bench.policy_times:timed", args=self._args, python=self._python, env=self._env)}


async def _robots(address: str, backend: Backend, seconds: float, times: Any) -> _Turn:
    """Asks as robots do; `times` is what the worker writes to."""
    batches: list[int] = []
    is_counted = False

    async def robot(number: int) -> None:
        async with AsyncConnection(address, f"robot-{number}") as connection:
            model = connection.model("policy", latency_budget_ms=100)
            observation = backend.observation(number)
            while True:
                result = await model.infer(60_000, observation=observation)
                if is_counted and result is not None and result.timing is not None:
                    batches.append(result.timing.batch_size)

    robots = [asyncio.create_task(robot(number)) for number in range(ROBOTS)]
    async with AsyncConnection(address, "first") as connection:  # until the model has loaded
        await connection.model("policy").infer(120_000, observation=backend.observation(0))
    await asyncio.sleep(1.0)  # the profile is learned
    is_counted, began, before = True, time.perf_counter(), np.array(times)
    robots_cpu, server_cpu = time.process_time(), _server_cpu_s()
    await asyncio.sleep(seconds)
    took, spent = time.perf_counter() - began, Times(*(np.array(times) - before))
    robots_cpu, server_cpu = time.process_time() - robots_cpu, _server_cpu_s() - server_cpu
    is_counted = False
    for one in robots:
        one.cancel()
    await asyncio.gather(*robots, return_exceptions=True)
    count = len(batches)
    return _Turn(count / took, statistics.mean(batches), spent, robots_cpu / count, server_cpu / count)


def _server_cpu_s() -> float:
    """Returns the CPU time of the server's process."""
    (server,) = multiprocessing.active_children()
    use = None if server.pid is None else use_of(server.pid)
    return 0.0 if use is None else use.cpu_s
