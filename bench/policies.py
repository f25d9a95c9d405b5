"""Policies from files behind the scheduler, beside their own libraries called in a loop: batched rows per second.

16 robots ask a policy as fast as they are answered; an ONNX policy whose batch of 8 takes about 5 ms, the same network
as TorchScript, and a small ACT policy of LeRobot. Beside each: its library called in a loop with batches of 8, and of
as many rows as the fleet's batches had, in a process of its own. Both use one thread for the model, and take turns. In
the worker it is measured how long a call takes and what lies between two. As server and robots keep another core busy,
which may be half of the model's own, the library is called beside a busy core too. TorchScript and LeRobot are measured
where TORCH_PYTHON and LEROBOT_PYTHON name interpreters that have them.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import serving
from bench.policy_backends import BATCH, Backend, layers_of, lerobot_backend, onnx_backend, torchscript_backend
from bench.policy_times import Times, new_times
from inferential import AsyncConnection, ModelProcess

ROBOTS = 16
_TURNS = 3


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


def _measured(backend: Backend, folder: Path, seconds: float) -> dict[str, Any]:
    served: list[float] = []
    direct: list[float] = []
    alike: list[float] = []
    beside: list[float] = []
    rows: list[float] = []
    sums = np.zeros(len(Times._fields))
    for turn in range(_TURNS):
        direct.append(backend.rows_per_s(seconds / _TURNS))
        path = folder / f"times-{turn}"
        times = new_times(path)
        with serving(_Models(backend, path), ready_s=90.0) as address:
            rows_per_s, mean_batch, spent = asyncio.run(_robots(address, backend, seconds / _TURNS, times))
        served.append(rows_per_s)
        rows.append(mean_batch)
        sums += spent
        size = round(mean_batch)
        alike.append(direct[-1] if size == BATCH else backend.rows_per_s(seconds / _TURNS, size))
        with _busy_core():
            beside.append(backend.rows_per_s(seconds / _TURNS))
    total = Times(*sums.tolist())
    return {
        "batch_of_8_ms": round(BATCH / statistics.median(direct) * 1e3, 2),
        "library_rows_per_s": round(statistics.median(direct)),
        "library_beside_a_busy_core_rows_per_s": round(statistics.median(beside)),
        "served_rows_per_s": round(statistics.median(served)),
        "share": _share(served, direct),
        "share_of_like_batches": _share(served, alike),
        "share_beside_a_busy_core": _share(served, beside),
        "rows_of_a_batch": round(statistics.mean(rows), 2),
        "call_ms": round(total.running / total.calls * 1e3, 2),
        "call_cpu_ms": round(total.cpu / total.calls * 1e3, 2),
        "between_calls_ms": round(total.between / total.calls * 1e3, 2),
        "library_turns": [round(one) for one in direct],
        "served_turns": [round(one) for one in served],
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
        return {
            "policy": ModelProcess(
                "bench.policy_times:TimedPolicy", args=self._args, python=self._python, env=self._env
            )
        }


async def _robots(address: str, backend: Backend, seconds: float, times: Any) -> tuple[float, float, Any]:
    """Returns the rows that were answered per second, how many ran in one call, and the worker's `times` of that."""
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
    is_counted, began = True, time.perf_counter()
    before = np.array(times)
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    is_counted = False
    spent = np.array(times) - before
    for one in robots:
        one.cancel()
    await asyncio.gather(*robots, return_exceptions=True)
    return len(batches) / took, statistics.mean(batches), spent
