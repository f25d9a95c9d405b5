"""The price of recording: round trips of 16 robots with two cameras each, with recording on and off by turns.

Two servers run side by side, of which one records; the robots ask one and then the other, a few seconds each.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np

from bench.harness import percentiles_ms
from inferential import AsyncConnection, InferenceError, LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.recording import RecordingConfig
from inferential.recording.recorder import Recorder

ROBOTS = 16
RATE_HZ = 5.0
CAMERA = (224, 224, 3)
TURN_S = 2.0
PAUSE_S = 0.5
"""Between two turns, in which what waits to be written is."""
COUNTS = ("loop_cpu_ms", "server_cpu_ms", "recorded", "dropped")
"""CPU time of the event loop and of the whole server for each answer, and how many requests were recorded or not."""
IMAGES = {"JPEG": "jpeg:85", "raw": "raw"}
MODELS_MS = {"no model time": 0.0, "a model of 20 ms": 20.0}


class Policy:
    """Takes so long for a batch."""

    max_batch_size = ROBOTS

    def __init__(self, takes_ms: float) -> None:
        self._takes_s = takes_ms / 1e3

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """A chunk of actions for each."""
        if self._takes_s:
            time.sleep(self._takes_s)
        return [{"actions": np.zeros((16, 7), np.float32)} for _ in observations]


def _serve(takes_ms: float, folder: str | None, pipe: Pipe) -> None:
    async def main() -> None:
        config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
        dispatcher = LocalDispatcher({"policy": Policy(takes_ms)})
        async with Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server:
            recorder = None if folder is None else Recorder(server, RecordingConfig(path=folder))
            async with recorder or contextlib.nullcontext():
                pipe.send(server.address)
                loop_s, process_s = time.thread_time(), time.process_time()
                closed = asyncio.Event()
                asyncio.get_running_loop().add_reader(pipe.fileno(), closed.set)
                await closed.wait()
                answers = max(server.status().models[0].answers, 1)
                used = (
                    (time.thread_time() - loop_s) * 1e3 / answers,
                    (time.process_time() - process_s) * 1e3 / answers,
                )
            pipe.send((*used, *((0, 0) if recorder is None else (recorder.recorded, recorder.dropped))))

    asyncio.run(main())


@contextmanager
def _serving(takes_ms: float, folder: str | None, counts: dict[str, float]) -> Iterator[str]:
    """Yields the address of a server in a process of its own; then puts in `counts` what it has recorded."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(takes_ms, folder, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
        ours.send("end")
        counts.update(zip(COUNTS, ours.recv(), strict=True))
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


async def _robot(
    address: str, number: int, encoding: str, turn: list[int], trips: list[list[float]], which: int
) -> None:
    """Asks while it is the turn of its server, with a new image each time."""
    random = np.random.default_rng(number)
    texture = random.integers(0, 256, (28, 28, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    async with AsyncConnection(address, f"robot-{number}", "arm") as connection:
        model = connection.model(
            "policy", queue="all", latency_budget_ms=10_000.0, encode={"left": encoding, "right": encoding}
        )
        await asyncio.sleep(number / ROBOTS / RATE_HZ)
        step = 0
        while turn[0] >= 0:
            step += 1
            if turn[0] != which:
                await asyncio.sleep(1 / RATE_HZ)
                continue
            left, right = np.roll(texture, step, 0), np.roll(texture, step, 1)
            began = time.perf_counter()
            with contextlib.suppress(InferenceError):
                if await model.infer(10_000, state=np.zeros(14, np.float32), left=left, right=right) is not None:
                    trips[which].append(time.perf_counter() - began)
            await asyncio.sleep(max(1 / RATE_HZ - (time.perf_counter() - began), 0))


async def _drive(addresses: tuple[str, str], encoding: str, seconds: float) -> list[list[float]]:
    turn, trips = [0], [[], []]
    robots = [
        asyncio.create_task(_robot(address, number, encoding, turn, trips, which))
        for which, address in enumerate(addresses)
        for number in range(ROBOTS)
    ]
    for warming in (True, False):
        for _ in range(1 if warming else max(round(seconds / TURN_S), 1)):
            for which in (0, 1):
                turn[0] = which
                await asyncio.sleep(TURN_S)
                turn[0] = 2
                await asyncio.sleep(PAUSE_S)
        if warming:
            trips[0].clear()
            trips[1].clear()
    turn[0] = -1
    await asyncio.gather(*robots)
    return trips


def run(seconds: float) -> dict[str, Any]:
    """Round trips without and with recording, by kind of image and time of the model."""
    results: dict[str, Any] = {"robots": ROBOTS, "rate_hz": RATE_HZ, "cameras": [list(CAMERA)] * 2, "cases": {}}
    for model, takes_ms in MODELS_MS.items():
        for images, encoding in IMAGES.items():
            folder = tempfile.mkdtemp(prefix="bench-recording-")
            counts_off: dict[str, float] = {}
            counts_on: dict[str, float] = {}
            try:
                with _serving(takes_ms, None, counts_off) as off, _serving(takes_ms, folder, counts_on) as on:
                    without, recorded = asyncio.run(_drive((off, on), encoding, 2 * seconds))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            one, other = percentiles_ms(without), percentiles_ms(recorded)
            results["cases"][f"{images}, {model}"] = {
                "off": one | {name: round(counts_off[name], 3) for name in COUNTS[:2]},
                "on": other | {name: round(value, 3) for name, value in counts_on.items()},
                "ratio_p50": round(other["p50_ms"] / one["p50_ms"], 3),
                "ratio_p99": round(other["p99_ms"] / one["p99_ms"], 3),
                "ratio_mean": round(float(np.mean(recorded) / np.mean(without)), 3),
            }
    return results
