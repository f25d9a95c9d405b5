"""Clients over real sockets: floods, silence, and what is left when they are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zmq

from inferential import AsyncConnection, Server
from inferential.proto import QUEUE_ALL, Client, Observation

WAIT_MS = 60_000
STATE = np.arange(7, dtype=np.float32)
Connect = Callable[..., AsyncConnection]
# Bounded by something else than the clients that are connected.
KEPT_WITHOUT_CLIENTS = {
    *("calls_remembered", "capacities_cached", "clients_departed", "envelope_cache_bytes"),
    *("metric_series", "metric_label_sets", "metric_points", "metric_rows_buffered"),
}
STRATEGIES = ["batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin"]


def emptied(server: Server) -> asyncio.Event:
    """Set while the server counts no client."""
    event = asyncio.Event()

    @server.on_metric
    def note(name: str, value: float, labels: dict[str, str]) -> None:
        if name == "active_clients":
            (event.clear if value else event.set)()

    return event


@pytest.mark.parametrize("queue", ["all", "latest"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_client_that_floods_does_not_lower_anothers_service(
    strategy: str, queue: Any, serve: Any, connect: Connect
) -> None:
    served: list[str] = []

    def model(observation: dict[str, Any]) -> Any:
        served.append(observation["who"])
        return observation["state"]

    config = {"scheduling": {"strategy": strategy, "batch_optimized": {"max_batch_size": 1}}}
    async with serve({"m": model}, config) as server:
        flood, good = connect(server, "flood").model("m", queue=queue), connect(server, "good").model("m")
        assert await good.infer(WAIT_MS, who="good", state=STATE) is not None
        for _ in range(400):
            await flood.observe(who="flood", state=STATE)
        for _ in range(30):
            for _ in range(10):
                await flood.observe(who="flood", state=STATE)
            before = len(served)
            assert await good.infer(WAIT_MS, who="good", state=STATE) is not None
            # One call may be running and one of the flood may stand before it, whatever the flood has waiting.
            assert served[before:].index("good") <= 12 if queue == "latest" else 4


async def test_a_silent_client_is_overdue_then_disconnected_once_and_counted_out(
    serve: Any, connect: Connect, pass_time: Callable[[float], None]
) -> None:
    result: list[tuple[str, str]] = []
    config = {"response_tracking": {"disconnect_timeout_s": 20.0}}
    async with serve({"m": lambda obs: obs}, config) as server:
        gone = emptied(server)
        server.on_metric(lambda name, value, labels: result.append((name, labels.get("client", ""))))
        model = connect(server, "robot").model("m")
        for _ in range(12):
            assert await model.infer(WAIT_MS, state=STATE) is not None
        assert server.metrics.get_latest("active_clients") == 1
        await asyncio.sleep(0.01)  # what runs after an answer
        result.clear()  # where the machine stood still, it may have been overdue before
        pass_time(5.0)
        async with asyncio.timeout(60):
            while ("client_overdue", "robot") not in result:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.01)
        for _ in range(3):  # several looks
            pass_time(20.0)
            await asyncio.wait_for(gone.wait(), 60)
            await asyncio.sleep(0.01)
        events = [name for name, client in result if client == "robot" and name.startswith("client_")]
        assert events == ["client_overdue", "client_disconnected"]
        assert server.metrics.get_latest("active_clients") == 0
        assert await model.infer(WAIT_MS, state=STATE) is not None
        assert server.metrics.get_latest("active_clients") == 1


async def test_the_log_says_of_who_is_gone_whether_it_has_left_or_is_silent(
    serve: Any, connect: Connect, caplog: Any, pass_time: Callable[[float], None]
) -> None:
    caplog.set_level(logging.INFO, "inferential")
    async with serve({"m": lambda obs: obs}, {"response_tracking": {"disconnect_timeout_s": 60.0}}) as server:
        gone = emptied(server)
        inside = server.connect("inside")
        silent, left = connect(server, "silent"), connect(server, "left")
        for robot in (inside, silent, left):
            assert await robot.model("m").infer(WAIT_MS, state=STATE) is not None
        left.close()
        async with asyncio.timeout(60):
            while server.status().sizes["connections"] > 1:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.001)
        pass_time(70.0)
        await asyncio.wait_for(gone.wait(), 60)
        inside.close()
    said = {line for line in caplog.messages if "disconnected" in line}
    assert said == {
        "client silent disconnected: nothing was received within the time-out",
        "client inside disconnected: nothing was received within the time-out",
        "client left disconnected: it has left",
    }


async def test_the_waiting_requests_of_a_client_that_is_gone_go_with_it(
    serve: Any, connect: Connect, gate: Any
) -> None:
    config = {"response_tracking": {"disconnect_timeout_s": 0.3}}
    async with serve({"m": gate}, config) as server:
        gone = emptied(server)
        connection = connect(server, "robot")
        model = connection.model("m", queue="all")
        for _ in range(4):
            await model.observe(state=STATE)
        await gate.wait_entered()
        while server.status().waiting < 3:  # noqa: ASYNC110 (no event is set)
            await asyncio.sleep(0.001)
        connection.close()
        await asyncio.wait_for(gone.wait(), 60)
        assert server.status().waiting == 0
        gate.let(1)
        stats = server.metrics.get_stats("requests_rejected", {"error": "client_gone"})
        assert stats is not None
        assert stats.count == 3


async def test_clients_that_came_and_went_leave_nothing_behind(serve: Any, connect: Connect) -> None:
    config = {"response_tracking": {"disconnect_timeout_s": 0.5}}
    async with serve({"m": lambda obs: obs}, config) as server:
        gone = emptied(server)
        for n in range(150):
            async with AsyncConnection(server.address, f"robot-{n}") as connection:
                for _ in range(3):
                    assert await connection.model("m").infer(WAIT_MS, state=STATE) is not None
        await asyncio.wait_for(gone.wait(), 60)
        sizes = server.status().sizes
        left = {name for name, size in sizes.items() if size}
        assert left <= KEPT_WITHOUT_CLIENTS
        points = server.metrics.snapshot().metrics
        assert {name for name, series in points.items() if any("client" in point["labels"] for point in series)} <= {
            "client_disconnected"
        }
        assert len(points["e2e_latency_ms"]) == 450  # what happened stays


async def test_a_client_that_does_not_read_is_counted_and_delays_no_other(serve: Any, connect: Connect) -> None:
    big = np.zeros(4_000_000, dtype=np.uint8)
    message = Observation(client=Client(id="deaf"), model_id="m", request_id=1, protocol_version=2, queue=QUEUE_ALL)
    failed = asyncio.Event()
    async with serve({"m": lambda obs: big}, {"transport": {"send_hwm": 1}}) as server:
        server.on_metric(lambda name, value, labels: failed.set() if name == "send_errors" else None)
        good = connect(server, "good").model("m")
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        deaf = context.socket(zmq.DEALER)
        deaf.setsockopt(zmq.IDENTITY, b"deaf")
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.connect(server.address)
        try:
            for _ in range(40):
                deaf.send_multipart([b"", message.SerializeToString(), b""])
            await asyncio.wait_for(failed.wait(), 60)
            for _ in range(5):
                assert await good.infer(WAIT_MS, state=STATE) is not None
        finally:
            deaf.close()
            context.term()
