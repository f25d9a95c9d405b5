"""Robots that behave: what they send, and how each of their requests ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgpack
import numpy as np
import zmq
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect as connect_websocket

from bench.overload.wire import PING, PONG, Frames, Observations, connect, frame
from bench.soak.models import MOODS
from inferential import AsyncConnection, Connection, InferenceError
from inferential.client import ChunkRuntime
from inferential.proto import ModelResponse
from inferential.proto.msgpack_numpy import pack

STATE = np.arange(7, dtype=np.float32)
LAST_ANSWERS_S = 8.0
"""How long answers are waited for at the end: a request lives 5 s in the queue."""
_TIMEOUT_MS = 2000.0
_AGAIN_S = 0.2


@dataclass
class Tally:
    """What one robot sent, and how it ended.

    Attributes:
        kind: which robot.
        sent: requests.
        ends: by "result", "timeout" or the error's type.
        twice: answers that came for a request that had ended.
        round_trips: when each result came, by `time.monotonic()`, and after how many milliseconds.
        trouble: what went wrong that is none of these.
    """

    kind: str
    sent: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    round_trips: list[tuple[float, float]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def result(self, began: float) -> None:
        """Counts a result."""
        now = time.monotonic()
        self.ends["result"] += 1
        self.round_trips.append((now, (now - began) * 1e3))


Robot = Callable[[Tally, "Places", threading.Event, random.Random], None]
Places = dict[str, str]


def _paced(stop: threading.Event, rate_hz: float, rng: random.Random) -> itertools.count[int]:
    """Counts control periods until it is stopped, at a rate, from a random phase on."""

    def steps() -> Any:
        due = time.monotonic() + rng.random() / rate_hz
        for step in itertools.count():
            if stop.wait(max(due - time.monotonic(), 0.0)):
                return
            yield step
            due = max(due + 1 / rate_hz, time.monotonic() - 1.0)

    return steps()  # type: ignore[no-any-return]


def _mood(model_id: str, rng: random.Random) -> dict[str, str]:
    return {"mood": rng.choice(MOODS)} if model_id == "moody" else {}


def sync(tally: Tally, places: Places, stop: threading.Event, rng: random.Random) -> None:
    """Asks by the robot SDK, one request at a time, now and then on a new connection under the same id."""
    name = f"sync-{rng.randrange(10**6)}"
    steps = _paced(stop, 10, rng)
    left = True
    while left:
        left = False
        with Connection(places["address"], name) as connection:
            model_id = rng.choice(("quick", "batch", "moody"))
            model = connection.model(model_id, queue=rng.choice(("latest", "all")))
            for step in steps:
                _ask(tally, partial(model.infer, _TIMEOUT_MS, state=STATE, **_mood(model_id, rng)))
                if step % 200 == 199:
                    left = True
                    break


def _ask(tally: Tally, ask: Callable[[], Any]) -> None:
    tally.sent += 1
    began = time.monotonic()
    try:
        result = ask()
    except InferenceError as error:
        tally.ends[type(error).__name__] += 1
    else:
        if result is None:
            tally.ends["timeout"] += 1
        else:
            tally.result(began)


def asynchronous(tally: Tally, places: Places, stop: threading.Event, rng: random.Random) -> None:
    """Asks as eight robots on one event loop, at 10 Hz each."""

    async def robot(number: int, seed: int) -> None:
        own = random.Random(seed)
        async with AsyncConnection(places["address"], f"async-{seed}-{number}") as connection:
            model_id = ("quick", "batch", "moody", "batch")[number % 4]
            model = connection.model(model_id)
            while not stop.is_set():
                tally.sent += 1
                began = time.monotonic()
                try:
                    result = await model.infer(_TIMEOUT_MS, state=STATE, **_mood(model_id, own))
                except InferenceError as error:
                    tally.ends[type(error).__name__] += 1
                else:
                    if result is None:
                        tally.ends["timeout"] += 1
                    else:
                        tally.result(began)
                await asyncio.sleep(max(0.1 - (time.monotonic() - began), 0.0))

    async def all_of_them() -> None:
        await asyncio.gather(*(robot(number, rng.randrange(10**6)) for number in range(8)))

    asyncio.run(all_of_them())


def chunked(tally: Tally, places: Places, stop: threading.Event, rng: random.Random) -> None:
    """Plays action chunks at 20 Hz."""
    with Connection(places["address"], f"chunks-{rng.randrange(10**6)}") as connection:
        handle = connection.model("chunks", control_rate_hz=20)
        runtime = ChunkRuntime(handle, control_rate_hz=20)
        for _ in _paced(stop, 20, rng):
            runtime.step(lambda: {"state": STATE})
        stats, superseded, older = runtime.stats, connection.stats.superseded, connection.stats.outdated
    tally.sent = stats.asked
    tally.ends += Counter(result=stats.chunks, outdated=stats.outdated, timeout=stats.lost) + stats.refused
    tally.ends += Counter(superseded=superseded, older=older)
    tally.ends["under way"] = min(max(tally.sent - sum(tally.ends.values()), 0), 1)  # when it was stopped


def raw(tally: Tally, places: Places, stop: threading.Event, rng: random.Random, version: int = 2) -> None:
    """Speaks the wire itself, and knows of each request whether it was answered, and how often."""
    name = f"raw-{version}-{rng.randrange(10**6)}"
    model_id = "quick" if version == 0 else rng.choice(("quick", "batch"))
    opened, frames = connect(places["address"], name.encode())
    messages = Observations(name, model_id, "all", version)
    numbers, waiting = itertools.count(1), {}
    with opened:
        opened.setblocking(False)
        for _ in _paced(stop, 10, rng):
            number = next(numbers)
            waiting[number] = time.monotonic()
            tally.sent += 1
            opened.sendall(messages.message(number, time.time_ns()))
            _read(opened, frames, tally, waiting, 0.0)
        until = time.monotonic() + LAST_ANSWERS_S
        while waiting and (left := until - time.monotonic()) > 0:
            _read(opened, frames, tally, waiting, left)
    tally.ends["timeout"] += len(waiting)


def _read(opened: socket.socket, frames: Frames, tally: Tally, waiting: dict[int, float], patience_s: float) -> None:
    if patience_s and not select.select([opened], [], [], patience_s)[0]:
        return
    try:
        data = opened.recv(1 << 16)
    except BlockingIOError:
        return
    if not data:
        tally.trouble.append("the server ended the connection of a robot that behaved")
        raise ConnectionError
    for found in frames.feed(data):
        if isinstance(found, bytes):
            if found.startswith(PING):
                opened.sendall(frame(PONG + found[7:], 4))
            continue
        response = ModelResponse.FromString(found[1])
        number = response.request_id or next(iter(waiting), 0)
        began = waiting.pop(number, None)
        if began is None:
            tally.twice += 1
            continue
        if response.status:
            tally.ends[f"status {response.status}"] += 1
        else:
            tally.result(began)


def old(tally: Tally, places: Places, stop: threading.Event, rng: random.Random) -> None:
    """Speaks as clients of the 1.x line do: no ids, and nothing but results comes back."""
    raw(tally, places, stop, rng, version=0)


def openpi(tally: Tally, places: Places, stop: threading.Event, rng: random.Random) -> None:
    """Asks the openpi gateway by a websocket, in lockstep."""
    steps = _paced(stop, 5, rng)
    observation = pack({"state": STATE})
    while not stop.is_set():
        with contextlib.suppress(WebSocketException, OSError), connect_websocket(places["openpi"]) as websocket:
            websocket.recv(timeout=10)
            for _ in steps:
                tally.sent += 1
                began = time.monotonic()
                websocket.send(observation)
                try:
                    answer = websocket.recv(timeout=40)
                except (WebSocketException, OSError, TimeoutError) as error:
                    tally.ends[type(error).__name__] += 1
                    break
                if isinstance(answer, str):
                    tally.ends["error text"] += 1
                else:
                    tally.result(began)
        stop.wait(_AGAIN_S)


def gr00t(tally: Tally, places: Places, stop: threading.Event, rng: random.Random) -> None:
    """Asks the GR00T gateway by a REQ socket."""
    context = zmq.Context()
    opened = context.socket(zmq.REQ)
    opened.setsockopt(zmq.LINGER, 0)
    opened.connect(places["gr00t"])
    request = msgpack.packb({"endpoint": "get_action", "data": {"state": STATE.tolist()}})
    for _ in _paced(stop, 5, rng):
        tally.sent += 1
        began = time.monotonic()
        opened.send(request)
        if not opened.poll(40_000):
            tally.ends["timeout"] += 1
            break
        answer = msgpack.unpackb(opened.recv())
        if "error" in answer:
            tally.ends["error text"] += 1
        else:
            tally.result(began)
    opened.close()
    context.term()


FLEET: tuple[tuple[Robot, int], ...] = (
    (sync, 4),
    (asynchronous, 1),
    (chunked, 2),
    (raw, 6),
    (old, 4),
    (openpi, 2),
    (gr00t, 2),
)
"""Which robots there are, and how many threads of each."""
EXACT = frozenset({"sync", "asynchronous", "raw"})
"""Kinds whose every request must end in a result or a typed error where the server is not stopped for long."""
