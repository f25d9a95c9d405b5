"""Requests that a robot gives up or loses, and connections that a fork or a flood gets in the way of."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import zmq

from inferential import AsyncConnection, Connection, LocalDispatcher, RequestRejected, Server
from inferential.sim.network import EmulatedNetwork, NetworkProfile

WAIT_MS = 60_000
VALUES = {"n": np.zeros(1, np.float32)}


class Held:
    """A model that answers once it is let."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.begun = threading.Event()
        self.seen = 0

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.seen += 1
        self.begun.set()
        self.free.wait(60)
        return {"actions": np.zeros(1, np.float32)}


@asynccontextmanager
async def serving(model: Any) -> AsyncIterator[Server]:
    async with Server("tcp://127.0.0.1:*", dispatcher=LocalDispatcher({"policy": model})) as server:
        yield server


def cancelled(server: Server) -> int:
    points = server.metrics.snapshot().metrics.get("requests_rejected", [])
    return sum(point["labels"].get("error") == "cancelled" for point in points)


@pytest.fixture
async def busy() -> AsyncIterator[tuple[Server, Held, AsyncConnection]]:
    """A server whose only model runs, and a connection of another robot."""
    held = Held()
    async with serving(held) as server, AsyncConnection(server.address) as first:
        await first.model("policy").observe(**VALUES)
        assert await asyncio.to_thread(held.begun.wait, 60)
        async with AsyncConnection(server.address) as connection:
            try:
                yield server, held, connection
            finally:
                held.free.set()


async def until_cancelled(server: Server, count: int, connection: AsyncConnection) -> None:
    """An unknown model answers at once, after what was sent before."""
    with pytest.raises(Exception, match="no model"):
        await connection.model("none").infer(timeout_ms=WAIT_MS, **VALUES)
    assert cancelled(server) == count


async def test_a_request_that_is_not_answered_in_time_ends_on_the_server(busy: Any) -> None:
    server, held, connection = busy
    assert await connection.model("policy").infer(timeout_ms=30, **VALUES) is None
    await until_cancelled(server, 1, connection)
    held.free.set()
    assert await connection.model("policy").infer(timeout_ms=WAIT_MS, **VALUES) is not None
    assert held.seen == 2
    assert connection.stats.unmatched == 0


async def test_cancel_takes_back_what_waits(busy: Any) -> None:
    server, held, connection = busy
    model = connection.model("policy", queue="all")
    await until_cancelled(server, 0, connection)  # it is connected
    for _ in range(3):
        await model.observe(**VALUES)
    assert await model.cancel() == 3
    assert await model.cancel() == 0
    await until_cancelled(server, 3, connection)
    held.free.set()
    assert await model.get_result(timeout_ms=20) is None
    assert connection.stats.cancelled == 3


async def test_a_broken_connection_ends_its_requests_at_once() -> None:
    held = Held()
    async with (
        serving(held) as server,
        EmulatedNetwork(server.address, NetworkProfile()) as network,
        AsyncConnection(network.address, reconnect_ivl_ms=1) as connection,
    ):
        model = connection.model("policy")
        request_id = await model.observe(**VALUES)
        assert await asyncio.to_thread(held.begun.wait, 60)
        network.reset_connections()
        with pytest.raises(RequestRejected, match="lost") as raised:
            await model.get_result(timeout_ms=WAIT_MS)
        assert raised.value.request_id == request_id
        held.free.set()
        assert await model.infer(timeout_ms=WAIT_MS, **VALUES) is not None


def in_child(run: Any) -> int:
    """Runs a function in a forked child; returns its exit code, 0 where it returned True."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if run() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refused(connection: Connection, model: Any) -> bool:
    uses = (lambda: model.observe(**VALUES), lambda: model.get_result(0), model.cancel, model.reset, model.nudge)
    for call in (*uses, lambda: connection.model("policy")):
        with pytest.raises(ConnectionError, match="fork"):
            call()
    connection.close()
    return True


async def test_a_forked_child_gets_an_error_and_leaves_the_parent_its_connection() -> None:
    held = Held()
    held.free.set()

    def robot(address: str) -> None:
        with Connection(address) as connection:
            model = connection.model("policy")
            assert model.infer(timeout_ms=WAIT_MS, **VALUES) is not None
            assert in_child(lambda: refused(connection, model)) == 0
            assert model.infer(timeout_ms=WAIT_MS, **VALUES) is not None

    async with serving(held) as server:
        await asyncio.to_thread(robot, server.address)


async def test_a_child_forked_while_another_thread_waits_can_close_what_is_the_parents() -> None:
    held = Held()

    def robot(address: str) -> None:
        with Connection(address) as connection:
            model = connection.model("policy")
            found: list[Any] = []
            waits = threading.Thread(target=lambda: found.append(model.infer(timeout_ms=WAIT_MS, **VALUES)))
            waits.start()
            assert held.begun.wait(60)
            while not connection.waiting:
                time.sleep(0.001)
            try:
                assert in_child(lambda: refused(connection, model)) == 0
            finally:
                held.free.set()
                waits.join()
            assert found[0] is not None

    async with serving(held) as server:
        await asyncio.to_thread(robot, server.address)


async def test_a_child_that_goes_on_in_the_event_loop_reads_nothing_of_the_parents() -> None:
    held = Held()
    held.free.set()

    async def drive(address: str) -> None:
        async with AsyncConnection(address) as connection:
            model = connection.model("policy")
            assert await model.infer(timeout_ms=WAIT_MS, **VALUES) is not None
            waits = asyncio.ensure_future(model.get_result(timeout_ms=WAIT_MS))
            forever = asyncio.get_running_loop().create_future()
            child = os.fork()
            if child == 0:
                try:
                    await waits
                except ConnectionError:
                    await forever
                finally:
                    os._exit(1)
            try:
                for _ in range(50):
                    assert await model.infer(timeout_ms=5000, **VALUES) is not None
                assert os.waitpid(child, os.WNOHANG) == (0, 0)  # noqa: ASYNC222
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)  # noqa: ASYNC222
                waits.cancel()

    async with serving(held) as server:
        await asyncio.to_thread(asyncio.run, drive(server.address))


def test_a_server_that_floods_does_not_hold_a_call_that_does_not_wait() -> None:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.SNDHWM, 0)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    done = threading.Event()

    def flood() -> None:
        identity = router.recv_multipart()[0]
        while not done.is_set():
            router.send_multipart([identity, b"", b"\xff", b""])

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        with Connection(f"127.0.0.1:{port}") as connection:
            model = connection.model("policy")
            model.observe(**VALUES)
            while connection.stats.unmatched < 1000:
                assert model.get_result(timeout_ms=10) is None
            for _ in range(4):  # the first would not return while the flood lasts
                assert model.get_result(timeout_ms=0) is None
    finally:
        done.set()
        thread.join(60)
        context.destroy(linger=0)


async def test_a_client_of_the_server_s_process_takes_its_requests_back_too(busy: Any) -> None:
    server, held, connection = busy
    async with server.connect("inside") as inside:
        model = inside.model("policy", queue="all")
        assert await model.infer(timeout_ms=30, **VALUES) is None
        await until_cancelled(server, 1, connection)
        await model.observe(**VALUES)
        assert await model.cancel() == 1
        await until_cancelled(server, 2, connection)
        held.free.set()
        assert await model.infer(timeout_ms=WAIT_MS, **VALUES) is not None
        assert held.seen == 2


async def test_a_client_of_a_server_s_process_may_give_up_once_that_has_stopped() -> None:
    held = Held()
    async with serving(held) as server:
        inside = server.connect("inside")
        waiting = asyncio.ensure_future(inside.model("policy").infer(timeout_ms=WAIT_MS, **VALUES))
        assert await asyncio.to_thread(held.begun.wait, 60)
        held.free.set()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await inside.model("policy").cancel() == 0
    inside.close()
