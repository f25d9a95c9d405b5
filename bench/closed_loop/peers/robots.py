"""What programs of peers share: robots that ask one thing at a time, and models as their servers hold them.

It is imported by programs of other environments, which find this repository's package by `add_package`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

PACKAGE = Path(__file__).parents[3] / "src"
MAX_BATCH_SIZE = 8
_READY_S = 60.0


def add_package() -> None:
    """Makes this repository's package importable."""
    if str(PACKAGE) not in sys.path:
        sys.path.append(str(PACKAGE))


def main(software: Any) -> None:
    """Runs the plan on standard input over some software, and prints its summary."""
    from inferential.sim.fleet import Plan, run
    from inferential.sim.watch import Watch

    watch = Watch(Plan(**json.load(sys.stdin)))
    for reports in run(watch.plan, software):
        watch.take(reports)
    print(json.dumps(watch.summary()))


class AskingLink:
    """A robot that asks with its newest observation once it has the answer to the one before.

    A robot over HTTP or a websocket does so: an older observation that was not sent yet is dropped.
    """

    def __init__(self) -> None:
        self._newest: tuple[float, Any] | None = None
        self._wanted = asyncio.Event()
        self._answers: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()
        self._asking: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connects to the server."""
        raise NotImplementedError

    async def ask(self, observation: Any) -> Any:
        """Returns the action for an observation."""
        raise NotImplementedError

    async def disconnect(self) -> None:
        """Ends the connection."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.connect()
        self._asking = asyncio.get_running_loop().create_task(self._ask_on())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
                await self._asking
        with contextlib.suppress(OSError):
            await self.disconnect()

    async def observe(self, observation: Any) -> None:
        """Takes the newest observation."""
        self._newest = time.monotonic(), observation
        self._wanted.set()

    async def receive(self) -> tuple[float, Any] | None:
        """Returns the next action and when its observation was made; None if none came within a second."""
        try:
            async with asyncio.timeout(1.0):
                return await self._answers.get()
        except TimeoutError:
            if self._asking is not None and self._asking.done():
                self._asking.result()
            return None

    async def _ask_on(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._newest is None:
                continue
            (at, observation), self._newest = self._newest, None
            self._answers.put_nowait((at, await self.ask(observation)))


class HttpLink(AskingLink):
    """Asks by POST over one connection that is kept."""

    def __init__(self, model_id: str, address: str, path: str) -> None:
        super().__init__()
        self._model_id = model_id
        self._address = address
        self._path = path

    async def connect(self) -> None:
        """Connects to the server."""
        host, _, port = self._address.partition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def ask(self, observation: Any) -> Any:
        """Sends arrays and reads an action."""
        body = pack(self._model_id, observation)
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._address}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        if " 200" not in lines[0]:
            raise OSError(lines[0])
        size = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
        answer = await self._reader.readexactly(size)
        return np.frombuffer(answer, np.float64)

    async def disconnect(self) -> None:
        """Ends the connection."""
        self._writer.close()


def pack(model_id: str, observation: dict[str, Any]) -> bytes:
    """Returns a model's id and arrays as bytes."""
    arrays = {key: np.ascontiguousarray(value) for key, value in observation.items()}
    shapes = {key: (str(array.dtype), array.shape) for key, array in arrays.items()}
    head = json.dumps([model_id, shapes]).encode()
    return struct.pack("<I", len(head)) + head + b"".join(array.tobytes() for array in arrays.values())


def unpack(data: bytes) -> tuple[str, dict[str, Any]]:
    """Returns what `pack` was given."""
    (size,) = struct.unpack_from("<I", data)
    model_id, shapes = json.loads(data[4 : 4 + size])
    at, observation = 4 + size, {}
    for key, (dtype, shape) in shapes.items():
        array = np.frombuffer(data, dtype, int(np.prod(shape)), at).reshape(shape)
        observation[key] = array
        at += array.nbytes
    return model_id, observation


class Models:
    """All policies on one accelerator, in the process that runs them.

    Args:
        cost: `fixed_ms` and `per_row_ms` of a call.
    """

    def __init__(self, cost: dict[str, float]) -> None:
        from inferential.sim.accelerator import AcceleratedModel, Accelerator, Cost
        from inferential.sim.tasks import TASKS

        accelerator = Accelerator(Cost(**cost))
        self._models = {
            model_id: AcceleratedModel(make(), accelerator)
            for task in TASKS.values()
            for model_id, make in task.policies.items()
        }

    def infer_batch(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[bytes]:
        """Returns actions as bytes: one call for each model among those that are asked."""
        found: dict[int, bytes] = {}
        for model_id in dict.fromkeys(model_id for model_id, _ in asked):
            numbers = [number for number, (each, _) in enumerate(asked) if each == model_id]
            results = self._models[model_id].infer_batch([asked[number][1] for number in numbers])
            for number, result in zip(numbers, results, strict=True):
                found[number] = np.asarray(result["actions"], np.float64).tobytes()
        return [found[number] for number in range(len(asked))]


def cost_of(models: dict[str, Any]) -> dict[str, float]:
    """Returns the cost of a call on the accelerator of these models."""
    cost = next(iter(models.values())).cost
    return {"fixed_ms": cost.fixed_ms, "per_row_ms": cost.per_row_ms}


def main_over_http(program: str, path: str) -> None:
    """Runs the plan on standard input over a server that robots ask by POST, and prints its summary.

    Args:
        program: the server's file, as `served_by` takes it.
        path: of the POST.
    """
    add_package()
    from inferential.sim.link import Software

    # Functions of this module: the fleet's processes are spawned, and unpickle them.
    main(Software(functools.partial(_serve_over_http, program, path), functools.partial(_http_link, path)))


def _http_link(path: str, robot: Any, name: str, server: str) -> HttpLink:
    """A robot's connection."""
    return HttpLink(robot.model_id, server, path)


@asynccontextmanager
async def _serve_over_http(
    program: str, path: str, strategy: str, models: dict[str, Any]
) -> AsyncIterator[tuple[str, Any]]:
    """A server in its own processes."""
    from inferential.sim.link import Served

    async with served_by(program, models, functools.partial(_probe, path)) as address:
        yield address, Served()


async def _probe(path: str, address: str) -> None:
    """Asks once."""
    one = HttpLink("", address, path)
    await one.connect()
    try:
        await one.ask({"x": np.zeros(1)})
    finally:
        await one.disconnect()


def _free_port() -> int:
    """Returns a free port below those that the system gives to connections: Ray takes it seconds later."""
    for port in random.sample(range(20_000, 32_768), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port was found from 20000 to 32767")


@asynccontextmanager
async def served_by(program: str, models: dict[str, Any], probe: Callable[[str], Any]) -> AsyncIterator[str]:
    """Runs a server as a program of its own, beside this file, until it answers; yields its address.

    Args:
        program: the file; it takes a port as its argument, and the cost of a call as JSON on standard input.
        models: what it is to serve.
        probe: asks it once, given its address; raises OSError while it does not answer.
    """
    address = f"127.0.0.1:{_free_port()}"
    command = [sys.executable, str(Path(__file__).with_name(program)), address.split(":")[1]]
    process = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs yet)
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(cost_of(models)).encode() + b"\n")
    process.stdin.flush()
    try:
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                await probe(address)
                break
            except (OSError, EOFError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise OSError(f"{program} does not serve; its error is above") from None
                await asyncio.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
