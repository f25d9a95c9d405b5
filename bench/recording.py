"""The price of recording: round trips of 16 robots with two cameras each, with recording on and off by turns.

One server is asked, turn after turn, in a round at the same moments: what differs between two servers, be it where
their memory lies, would be taken for a price. In one turn of a round it records. In two it does not: what they differ
by is chance. In the fourth it does not either, and a process beside it does for each answer what writing it takes:
what that costs is the machine's, which has a processor less for so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from inferential.recording.process import stand_aside
from inferential.recording.recorder import Recorder
from inferential.server.watching import RequestWatcher

ROBOTS = 16
RATE_HZ = 5.0
CAMERA = (224, 224, 3)
TURNS = 6
"""Observations of a robot in a turn."""
PAUSE_S = 0.3
"""Between two turns, in which what waits to be written is."""
MODES = ("off", "on", "again", "beside")
"""The turns of a round: in which the server records, and in which it does not."""
COUNTS = ("loop_cpu_ms", "server_cpu_ms")
"""CPU time of the event loop and of the whole server for each answer."""
RESAMPLED = 2000
"""So often rounds are drawn anew, to say how far a ratio may be from what more rounds would give."""


Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


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
    """Has a process write a request of its own for each answer that it sees."""

    def __init__(self, folder: str, encoding: str) -> None:
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

    def used_late(self, used: object) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join()


def _write(pipe: Pipe, folder: str, encoding: str) -> None:
    stand_aside()
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


async def _serve(takes_ms: float, encoding: str, folder: str, pipe: Pipe) -> None:
    """Serves; takes the mode of each turn from the pipe, and says what the turn before has cost."""
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
    dispatcher = LocalDispatcher({"policy": Policy(takes_ms)})
    async with Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server:
        recorder, beside = Recorder(server, RecordingConfig(path=f"{folder}/on")), _Beside(f"{folder}/beside", encoding)
        async with recorder:
            pipe.send(server.address)
            used = time.thread_time(), time.process_time()
            watchers: dict[str, RequestWatcher] = {"on": recorder, "beside": beside}
            while (mode := await _received(pipe)) != "end":
                before, used = used, (time.thread_time(), time.process_time())
                for watcher in watchers.values():
                    server.unwatch(watcher)
                if mode in watchers:
                    server.watch(watchers[mode])
                pipe.send((used[0] - before[0], used[1] - before[1]))
        beside.close()
        pipe.send((recorder.recorded, recorder.dropped))


async def _received(pipe: Pipe) -> str:
    readable, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), readable.set)
    await readable.wait()
    loop.remove_reader(pipe.fileno())
    return str(pipe.recv())


def _serve_alone(*args: Any) -> None:
    asyncio.run(_serve(*args))


@contextmanager
def _serving(takes_ms: float, encoding: str, folder: str, counts: dict[str, int]) -> Iterator[tuple[str, Pipe]]:
    """Yields a server's address and pipe; then puts in `counts` what it has recorded."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_alone, args=(takes_ms, encoding, folder, theirs))  # has processes itself
    process.start()
    try:
        yield ours.recv(), ours
        ours.send("end")
        counts.update(zip(("recorded", "dropped"), ours.recv(), strict=True))
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


@dataclass
class _Turn:
    """Times of the answers of a turn, and seconds of CPU that the event loop and the server took for them."""

    trips: list[float]
    loop_s: float = 0.0
    server_s: float = 0.0


async def _drive(address: str, pipe: Pipe, encoding: str, rounds: int) -> dict[str, list[_Turn]]:
    """Has all robots ask the server in one mode after the other; returns the turns of each, by round."""
    turns: dict[str, list[_Turn]] = {mode: [] for mode in MODES}
    random, texture = np.random.default_rng(7), [_texture()] * 2
    async with contextlib.AsyncExitStack() as stack:
        models: list[AsyncModel] = []
        for number in range(ROBOTS):
            connection = await stack.enter_async_context(AsyncConnection(address, f"robot-{number}", "arm"))
            encode = {"left": encoding, "right": encoding}
            models.append(connection.model("policy", queue="all", latency_budget_ms=10_000.0, encode=encode))

        async def take_turn(mode: str, begin: Floats, times: int) -> _Turn:
            pipe.send(mode)
            pipe.recv()  # of the pause
            begins_at = asyncio.get_running_loop().time() + begin
            robots = zip(models, begins_at, strict=True)
            found = await asyncio.gather(*(_turn(model, texture, at, times) for model, at in robots))
            pipe.send("pause")
            return _Turn([trip for trips in found for trip in trips], *pipe.recv())

        for mode in MODES:  # what is loaded with the first request is; memory that is shared is touched first
            await take_turn(mode, np.zeros(ROBOTS), 2)
        for number in range(rounds):
            phases = random.uniform(0, 1 / RATE_HZ, ROBOTS)  # the same for all modes: batches come of them
            for mode in np.roll(MODES, number % len(MODES)).tolist():
                turns[mode].append(await take_turn(mode, phases, TURNS))
                await asyncio.sleep(PAUSE_S)
    return turns


def _measure(encoding: str, takes_ms: float, seconds: float) -> dict[str, Any]:
    """Round trips without and with recording, of one kind of image and time of the model."""
    rounds = max(round(seconds / (TURNS / RATE_HZ)), 1)
    counts: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-recording-") as folder,
        _serving(takes_ms, encoding, folder, counts) as (address, pipe),
    ):
        turns = asyncio.run(_drive(address, pipe, encoding, rounds))
    fleet = {"robots": ROBOTS, "rate_hz": RATE_HZ, "cameras": [list(CAMERA)] * 2, "model_ms": takes_ms}
    return fleet | _figures(turns, counts)


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


def _figures(turns: dict[str, list[_Turn]], counts: dict[str, int]) -> dict[str, Any]:
    rounds = len(turns["off"])
    found: dict[str, Any] = {"rounds": rounds}
    for mode in MODES:
        trips = [trip for turn in turns[mode] for trip in turn.trips]
        cpu = [sum(getattr(turn, name) for turn in turns[mode]) for name in ("loop_s", "server_s")]
        cpu_ms = {name: round(used / len(trips) * 1e3, 3) for name, used in zip(COUNTS, cpu, strict=True)}
        found[mode] = percentiles_ms(trips) | {"mean_ms": round(float(np.mean(trips)) * 1e3, 3)} | cpu_ms
    found["on"] |= counts
    random = np.random.default_rng(7)
    drawn = [random.integers(0, rounds, rounds) for _ in range(RESAMPLED)]
    averages: dict[str, Callable[[Floats], Any]] = {
        "p50": np.median,
        "mean": np.mean,
        "p99": partial(np.percentile, q=99),
    }
    for name, of in averages.items():
        for mode, what in {"on": "ratio", "again": "again", "beside": "beside"}.items():
            found[f"{what}_{name}"] = round(found[mode][f"{name}_ms"] / found["off"][f"{name}_ms"], 3)
            found[f"{what}_{name}_from_to"] = _spread(turns[mode], turns["off"], of, drawn)
    return found


def _spread(turns: list[_Turn], off: list[_Turn], of: Callable[[Floats], Any], drawn: list[Any]) -> list[float]:
    """Returns the 5th and 95th percentile of a ratio over rounds that are drawn anew, with putting back."""
    ratios = []
    for numbers in drawn:
        ours, theirs = (of(np.concatenate([one[number].trips for number in numbers])) for one in (turns, off))
        ratios.append(ours / theirs)
    return [round(float(bound), 3) for bound in np.percentile(ratios, [5, 95])]
