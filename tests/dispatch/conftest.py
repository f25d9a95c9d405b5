"""Requests made by hand, with real frames, and what comes back of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, InferenceError, ModelProcess, Server
from inferential.config import InferentialConfig
from inferential.dispatch import DispatchResult, LocalDispatcher
from inferential.observation.values import read_slots
from inferential.proto import Client, Observation
from inferential.proto.messages import Response, put_metadata, read_response, split_values
from inferential.proto.tensors import pack
from inferential.scheduler.request import InferenceRequest

MakeRequest = Callable[..., InferenceRequest]
Serve = Callable[..., LocalDispatcher]
Serving = Callable[..., Any]
PAUSE_S = 0.002
"""Of robots between an answer and their next request: without one they would keep a core busy, and nothing else."""


def make_request(
    model_id: str = "m",
    values: Mapping[str, Any] | None = None,
    *,
    client_id: str = "robot",
    request_id: int = 7,
    slots_known: bool = False,
    harm: Callable[[bytearray], None] | None = None,
) -> InferenceRequest:
    """A request as one makes it by hand; with `slots_known`, as the server makes it. `harm` spoils its payload."""
    tensors, metadata = split_values({"state": np.arange(3.0)} if values is None else values)
    message = Observation(client=Client(id=client_id), model_id=model_id, request_id=request_id)
    payload = bytearray(pack(message.tensors, tensors))
    put_metadata(message.metadata, metadata)
    envelope = message.SerializeToString()
    slots, strings = read_slots(envelope, len(payload)) if slots_known else (None, None)
    if harm is not None:
        harm(payload)
    return InferenceRequest(
        client_id=client_id,
        model_id=model_id,
        identity=client_id.encode(),
        envelope=envelope,
        payload=payload,
        received_at=time.monotonic(),
        urgency=0.0,
        steps_remaining=None,
        time_until_next=0.0,
        latency_budget_ms=50.0,
        priority=1,
        request_id=request_id,
        slots=slots,
        metadata=strings,
    )


def read(result: DispatchResult) -> Response:
    """The response as a robot reads it."""
    assert result.success, result.error
    return read_response(result.envelope, result.payload)


async def in_time(awaitable: Any) -> Any:
    """What hangs fails."""
    async with asyncio.timeout(60):
        return await awaitable


@pytest.fixture
def request_of() -> MakeRequest:
    return make_request


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`serve(m=model)`: a dispatcher; closed after the test."""
    opened: list[LocalDispatcher] = []

    def served(**models: Any) -> LocalDispatcher:
        opened.append(LocalDispatcher(models))
        return opened[-1]

    yield served
    for dispatcher in opened:
        await dispatcher.close()


@pytest.fixture
def ask(serve: Serve) -> Callable[..., Any]:
    """`await ask(model, values)`: the result of one request to one model."""

    async def asked(model: Any, values: Mapping[str, Any] | None = None, **more: Any) -> DispatchResult:
        (result,) = await in_time(serve(m=model).dispatch([make_request("m", values, **more)]))
        return result

    return asked


@pytest.fixture
def answer(ask: Callable[..., Any]) -> Callable[..., Any]:
    """`await answer(model, values)`: the same, which must have succeeded, as a robot reads it."""

    async def answered(model: Any, values: Mapping[str, Any] | None = None, **more: Any) -> Response:
        return read(await ask(model, values, **more))

    return answered


@pytest.fixture
def read_result() -> Callable[[DispatchResult], Response]:
    return read


@pytest.fixture
def finish() -> Callable[[Any], Any]:
    return in_time


# Whole servers, and robots that ask them


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    """`await serving(config, model_id=model, ...)`: a server and its dispatcher; closed after the test."""
    async with AsyncExitStack() as stack:

        async def serve(config: InferentialConfig | None = None, **given: Any) -> tuple[Server, LocalDispatcher]:
            dispatcher = LocalDispatcher(given)
            server = Server("tcp://127.0.0.1:0", dispatcher=dispatcher, config=config)
            await stack.enter_async_context(server)
            for model_id in given:
                await server.model_ready(model_id)
            await until(lambda: not dispatcher.problems())  # all replicas, too
            return server, dispatcher

        yield serve


@asynccontextmanager
async def robot(server: Server, model_id: str, client_id: str = "robot") -> AsyncIterator[Any]:
    async with AsyncConnection(server.address, client_id=client_id) as connection:
        yield connection.model(model_id, queue="all")


@asynccontextmanager
async def load(server: Server, model_id: str, robots: int = 3, gain: float = 1.0) -> AsyncIterator[Counter[str]]:
    """Robots that ask a model all the time; every request is counted by what it ended in.

    A right answer is what was sent times `gain`.
    """
    ends: Counter[str] = Counter()
    over = asyncio.Event()

    async def ask(number: int) -> None:
        async with robot(server, model_id, f"load-{number}") as model:
            while not over.is_set():
                ends["asked"] += 1
                try:
                    result = await model.infer(timeout_ms=60_000, state=np.full(4, number, np.float32))
                except InferenceError as error:
                    ends[type(error).__name__] += 1
                else:
                    ends["none" if result is None else "answered"] += 1
                    assert result is None or result["actions"][0] == gain * number
                await asyncio.sleep(PAUSE_S)

    tasks = [asyncio.create_task(ask(number)) for number in range(robots)]
    try:
        yield ends
    finally:
        over.set()
        await asyncio.gather(*tasks)


def models_of(source: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelProcess]:
    """Writes a module that only workers import; returns `models("name", ...)`, a ModelProcess of a model in it."""
    module = f"{name}_models_" + folder.name.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    monkeypatch.chdir(folder)
    return lambda what, **options: ModelProcess(f"{module}:{what}", **options)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def ask_robot(model: Any, **values: Any) -> Any:
    return await model.infer(timeout_ms=60_000, **values)
