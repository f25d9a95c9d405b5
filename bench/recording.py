"""The price of recording: round trips of 16 robots with two cameras each, with recording on and off by turns.

Four servers run side by side; the robots ask each for some seconds, round after round, and in a round at the same
moments. One records. Two record nothing: what they differ by is chance. Beside the fourth, which records nothing
either, a process does for each answer what writing it takes: what that costs is the machine's, which has a processor
less for so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.harness import percentiles_ms
from inferential import AsyncConnection, AsyncModel, InferenceError, LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.recording import RecordingConfig
from inferential.proto import JPEG, Observation
from inferential.proto.images import encode
from inferential.proto.tensors import pack
from inferential.recording.cameras import Images
from inferential.recording.entries import Entry
from inferential.recording.files import RecordingFiles
from inferential.recording.process import stand_back
from inferential.recording.recorder import Recorder

ROBOTS = 16
RATE_HZ = 5.0
CAMERA = (224, 224, 3)
TURNS = 10
"""Observations of a robot before the next server is asked."""
PAUSE_S = 0.4
"""Between two turns, in which what waits to be written is."""
SERVERS = ("off", "on", "again", "beside")
"""Which records, and which do not."""
COUNTS = ("loop_cpu_ms", "server_cpu_ms", "recorded", "dropped")
"""CPU time of the event loop and of the whole server for each answer, and how many requests were recorded or not."""


Image = npt.NDArray[np.uint8]


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


class _Beside:
    """Has a process write a request of its own for each answer, as long as it is entered."""

    def __init__(self, server: Server, folder: str, encoding: str) -> None:
        self._server = server
        context = multiprocessing.get_context("spawn")
        theirs, self._pipe = context.Pipe(duplex=False)
        self._process = context.Process(target=_write, args=(theirs, folder, encoding), daemon=True)
        self._process.start()
        theirs.close()

    def dispatched(self, batch: object) -> None:
        """Does nothing."""

    def answered(self, result: object) -> None:
        """Lets the process write."""
        self._pipe.send_bytes(b"x")

    def ended(self, request: object) -> None:
        """Does nothing."""

    async def __aenter__(self) -> None:
        self._server.watch(self)

    async def __aexit__(self, *error: object) -> None:
        self._server.unwatch(self)
        self._pipe.close()
        self._process.join()


def _write(pipe: Pipe, folder: str, encoding: str) -> None:
    stand_back()
    observation, images = Observation(model_id="policy"), [_texture(), _texture()]
    values = {str(axis): image if encoding == "raw" else encode(image, JPEG, 85) for axis, image in enumerate(images)}
    payload = bytes(pack(observation.tensors, values))
    files = RecordingFiles(Path(folder))
    common = {"client_id": "robot", "client_type": "arm", "model_id": "policy", "session": "1", "request_id": 1}
    with contextlib.suppress(EOFError):
        for number in itertools.count(1):
            pipe.recv_bytes()
            at_ns = time.monotonic_ns()
            answer = {"end": "answered"}
            frames = (observation.SerializeToString(), payload, None, b"")
            files.write(Entry(at_ns, at_ns, 0, number, common, {}, answer, *frames), Images())


def _texture() -> Image:
    random = np.random.default_rng(7)
    return random.integers(0, 256, (CAMERA[0] // 8, CAMERA[1] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def _serve(takes_ms: float, which: str, encoding: str, folder: str, pipe: Pipe) -> None:
    async def main() -> None:
        config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
        dispatcher = LocalDispatcher({"policy": Policy(takes_ms)})
        async with Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server:
            recorder = Recorder(server, RecordingConfig(path=folder)) if which == "on" else None
            beside = _Beside(server, folder, encoding) if which == "beside" else contextlib.nullcontext()
            async with recorder or beside:
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
def _serving(takes_ms: float, which: str, encoding: str, folder: str, counts: dict[str, float]) -> Iterator[str]:
    """Yields the address of a server in a process of its own; then puts in `counts` what it has recorded."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(takes_ms, which, encoding, folder, theirs)
    )  # has processes of its own
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


async def _turn(model: AsyncModel, images: list[Image], begins_at: float, times: int = TURNS) -> list[float]:
    """Asks at a robot's rate from a moment on, with a new image each time; returns the times of the answers."""
    found: list[float] = []
    clock = asyncio.get_running_loop().time
    for step in range(times):
        await asyncio.sleep(max(begins_at + step / RATE_HZ - clock(), 0))
        left, right = (np.roll(image, step, axis) for axis, image in enumerate(images))
        began = time.perf_counter()
        with contextlib.suppress(InferenceError):
            if await model.infer(10_000, state=np.zeros(14, np.float32), left=left, right=right) is not None:
                found.append(time.perf_counter() - began)
    return found


async def _drive(addresses: dict[str, str], encoding: str, rounds: int) -> dict[str, list[float]]:
    """Has all robots ask one server after the other; returns the times of the answers by the server's name."""
    trips: dict[str, list[float]] = {name: [] for name in addresses}
    random = np.random.default_rng(7)
    texture, names = _texture(), list(addresses)
    async with contextlib.AsyncExitStack() as stack:
        models: dict[str, list[AsyncModel]] = {name: [] for name in names}
        for name, address in addresses.items():
            for number in range(ROBOTS):
                connection = await stack.enter_async_context(AsyncConnection(address, f"robot-{number}", "arm"))
                models[name].append(
                    connection.model(
                        "policy", queue="all", latency_budget_ms=10_000.0, encode={"left": encoding, "right": encoding}
                    )
                )
        for name in names:  # all connect, and what is loaded with the first request is
            await asyncio.gather(*(_turn(model, [texture] * 2, 0.0, 1) for model in models[name]))
        for number in range(rounds):
            phases = random.uniform(0, 1 / RATE_HZ, ROBOTS)  # the same for all servers: batches come of them
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begins_at = asyncio.get_running_loop().time() + phases
                turns = [_turn(*one) for one in zip(models[name], [[texture] * 2] * ROBOTS, begins_at, strict=True)]
                found = await asyncio.gather(*turns)
                trips[name] += [trip for turn in found for trip in turn]
                await asyncio.sleep(PAUSE_S)
    return trips


def _measure(encoding: str, takes_ms: float, seconds: float) -> dict[str, Any]:
    """Round trips without and with recording, of one kind of image and time of the model."""
    rounds = max(round(seconds / (TURNS / RATE_HZ)), 1)
    counts: dict[str, dict[str, float]] = {name: {} for name in SERVERS}
    with tempfile.TemporaryDirectory(prefix="bench-recording-") as folder, contextlib.ExitStack() as stack:
        addresses = {
            name: stack.enter_context(_serving(takes_ms, name, encoding, f"{folder}/{name}", counts[name]))
            for name in SERVERS
        }
        trips = asyncio.run(_drive(addresses, encoding, rounds))
    fleet = {"robots": ROBOTS, "rate_hz": RATE_HZ, "cameras": [list(CAMERA)] * 2, "model_ms": takes_ms}
    return fleet | _figures(trips, counts)


CASES = {
    "jpeg": partial(_measure, "jpeg:85", 0.0),
    "raw": partial(_measure, "raw", 0.0),
    "jpeg-20ms": partial(_measure, "jpeg:85", 20.0),
    "raw-20ms": partial(_measure, "raw", 20.0),
}
SAVES_CASES = True


def run(seconds: float) -> dict[str, Any]:
    """Returns the figures of all cases."""
    return {name: case(seconds) for name, case in CASES.items()}


def _figures(trips: dict[str, list[float]], counts: dict[str, dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: percentiles_ms(trips[name])
        | {"mean_ms": round(float(np.mean(trips[name])) * 1e3, 3)}
        | {key: round(value, 3) for key, value in counts[name].items() if name == "on" or key in COUNTS[:2]}
        for name in trips
    }
    for key in ("p50_ms", "p99_ms", "mean_ms"):
        short = key.removesuffix("_ms")
        for name, what in {"on": "ratio", "again": "again", "beside": "beside"}.items():
            found[f"{what}_{short}"] = round(found[name][key] / found["off"][key], 3)
    return found
