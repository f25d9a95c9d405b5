"""A server in front of a real Ray Serve: resolution, both planes, redeploys, and faults with load running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dispatch.conftest import PAUSE_S
from tests.dispatch.ray.deployments import Doubles, HangsOnce, Plain, PlainBatches, PlainSlow, deployment

from inferential import AsyncConnection, InferenceError, ModelFailed, Server, UnknownModel
from inferential.config import InferentialConfig
from inferential.dispatch.dispatcher import RayDispatcher
from inferential.replica import ONGOING, autoscaling_policy, direct
from inferential.replica.registry import registry

pytestmark = [pytest.mark.slow]
Serving = Callable[..., Any]


@pytest.fixture
async def serving(cluster: Any) -> AsyncIterator[Serving]:
    """Servers of models of Ray Serve, and a connection to each."""
    async with contextlib.AsyncExitStack() as stack:

        async def _serving(*models: str, **options: Any) -> tuple[Server, AsyncConnection]:
            config = InferentialConfig.model_validate(options)
            server = await stack.enter_async_context(
                Server("tcp://127.0.0.1:*", config=config, dispatcher=RayDispatcher(models=models or None))
            )
            return server, await stack.enter_async_context(AsyncConnection(server.address, client_id="robot"))

        yield _serving


async def replicas(server: Server, model_id: str, count: int) -> None:
    """Waits until so many replicas take calls."""
    dispatcher = server.dispatcher
    async with asyncio.timeout(240):
        while len(dispatcher.replicas(model_id)) != count or dispatcher.max_inflight(model_id) == 0:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.02)


async def load(connection: AsyncConnection, model_id: str, stop: asyncio.Event, **values: Any) -> Counter[str]:
    """Closed-loop requests until `stop` is set; how they ended."""
    model = connection.model(model_id, latency_budget_ms=60_000.0, queue="all")
    ends: Counter[str] = Counter()
    while not stop.is_set():
        try:
            result = await model.infer(timeout_ms=60_000, state=np.ones(4, np.float32), **values)
        except InferenceError as error:
            ends[type(error).__name__] += 1
        else:
            ends["none" if result is None else str(result["by"])] += 1
        await asyncio.sleep(PAUSE_S)
    return ends


async def test_an_application_a_path_and_a_name_reach_the_same_deployment(run: Any, serving: Serving) -> None:
    run(deployment(Doubles).options(name="TheDoubles").bind(), "app")
    server, connection = await serving("app", "app/TheDoubles", "TheDoubles")
    await replicas(server, "app", 1)
    for model_id in ("app", "app/TheDoubles", "TheDoubles"):
        result = await connection.model(model_id).infer(timeout_ms=60_000, state=np.ones(3))
        np.testing.assert_array_equal(result["actions"], [2.0, 2.0, 2.0])
        assert result.model_version == "v1"


async def test_a_deployment_without_an_endpoint_is_served_by_its_handle(run: Any, serving: Serving) -> None:
    run(deployment(Plain).bind(), "plain")
    server, connection = await serving("plain")
    await replicas(server, "plain", 1)
    model = connection.model("plain")
    result = await model.infer(timeout_ms=60_000, state=np.ones(3))
    np.testing.assert_array_equal(result["actions"], [3.0, 3.0, 3.0])
    with pytest.raises(ModelFailed, match="no such arm"):
        await model.infer(timeout_ms=60_000, state=np.ones(3), fail="yes")


async def test_batches_go_by_handle_too_once_it_is_known_that_they_can(run: Any, serving: Serving) -> None:
    run(deployment(PlainBatches).bind(), "batches")
    server, connection = await serving("batches")
    await replicas(server, "batches", 1)
    model = connection.model("batches", queue="all", latency_budget_ms=60_000.0)
    await model.infer(timeout_ms=60_000, state=np.ones(3))
    assert server.dispatcher.max_batch_size("batches") == 8
    results = await asyncio.gather(*(model.infer(timeout_ms=60_000, state=np.ones(3)) for _ in range(6)))
    assert max(int(result["rows"]) for result in results) > 1


async def test_requests_wait_for_a_model_that_is_not_up_yet(run: Any, serving: Serving, caplog: Any) -> None:
    _, connection = await serving("later", scheduling={"request_ttl_ms": 60_000})
    assert "model later is not up yet" in caplog.text
    waiting = asyncio.create_task(connection.model("later").infer(timeout_ms=60_000, state=np.ones(2)))
    with pytest.raises(UnknownModel):
        await connection.model("never").infer(timeout_ms=60_000, state=np.ones(2))
    await asyncio.get_running_loop().run_in_executor(None, run, deployment(Doubles).bind(), "later")
    np.testing.assert_array_equal((await waiting)["actions"], [2.0, 2.0])


async def test_a_name_of_two_applications_is_refused_at_the_start(run: Any, serving: Serving) -> None:
    for app in ("one", "two"):
        run(deployment(Plain).options(name="Same").bind(), app)
    with pytest.raises(ValueError, match=r"one/Same, two/Same"):
        await serving("Same")


async def test_what_runs_goes_to_all_replicas_and_no_more_than_they_take(run: Any, serving: Serving) -> None:
    run(deployment(Doubles, 2).bind(), "pair")
    server, connection = await serving("pair", models={"known": {"pair": {"max_batch_size": 2}}})
    await replicas(server, "pair", 2)
    model = connection.model("pair", queue="all", latency_budget_ms=60_000.0)
    calls = [model.infer(timeout_ms=60_000, state=np.ones(2), seconds=np.array(0.05)) for _ in range(16)]
    results = await asyncio.gather(*calls)
    assert len({int(result["pid"]) for result in results}) == 2
    assert all(result.timing.batch_size <= 2 for result in results)


async def test_a_replica_that_is_killed_costs_no_request(run: Any, serving: Serving) -> None:
    run(deployment(Doubles, 2).bind(), "killed")
    server, connection = await serving("killed")
    await replicas(server, "killed", 2)
    stop = asyncio.Event()
    loads = [asyncio.create_task(load(connection, "killed", stop, seconds=np.array(0.02))) for _ in range(4)]
    victim = await connection.model("killed", queue="all").infer(timeout_ms=60_000, state=np.ones(2))
    os.kill(int(victim["pid"]), signal.SIGKILL)
    await replicas(server, "killed", 1)
    await replicas(server, "killed", 2)
    stop.set()
    ends = sum(await asyncio.gather(*loads), Counter())
    assert set(ends) == {"v1"}


async def test_a_replica_without_an_endpoint_that_is_killed_costs_no_request(run: Any, serving: Serving) -> None:
    run(deployment(PlainSlow, 2).bind(), "plain-killed")
    server, connection = await serving("plain-killed")
    await replicas(server, "plain-killed", 2)
    stop = asyncio.Event()
    loads = [asyncio.create_task(load(connection, "plain-killed", stop)) for _ in range(4)]
    model = connection.model("plain-killed", queue="all", latency_budget_ms=60_000.0)
    victim = int((await model.infer(timeout_ms=60_000, state=np.ones(2)))["pid"])
    os.kill(victim, signal.SIGKILL)
    pids: set[int] = set()
    async with asyncio.timeout(240):
        while len(pids) < 2:
            pids |= {int((await model.infer(timeout_ms=60_000, state=np.ones(2)))["pid"])} - {victim}
    stop.set()
    assert set(sum(await asyncio.gather(*loads), Counter())) == {"v1"}


async def test_no_more_is_in_flight_by_handle_than_serve_lets_a_replica_have(run: Any, serving: Serving) -> None:
    run(deployment(PlainSlow).options(max_ongoing_requests=2).bind(), "few")
    server, connection = await serving("few", models={"known": {"few": {"max_inflight": 10}}})
    await replicas(server, "few", 1)
    model = connection.model("few", queue="all", latency_budget_ms=60_000.0)
    calls = [asyncio.create_task(model.infer(timeout_ms=60_000, state=np.ones(2))) for _ in range(12)]
    in_flight = 0
    while not all(call.done() for call in calls):
        in_flight = max(in_flight, server.status().in_flight)
        await asyncio.sleep(0.001)
    assert in_flight == 2
    assert max(int(call.result()["running"]) for call in calls) == 2


async def test_a_call_that_never_ends_goes_to_another_replica(run: Any, serving: Serving, tmp_path: Path) -> None:
    run(deployment(HangsOnce, 2).bind(str(tmp_path / "hung")), "endless")
    server, connection = await serving("endless")
    await replicas(server, "endless", 2)
    stop = asyncio.Event()
    loads = [asyncio.create_task(load(connection, "endless", stop)) for _ in range(4)]
    await replicas(server, "endless", 1)
    await replicas(server, "endless", 2)
    stop.set()
    assert set(sum(await asyncio.gather(*loads), Counter())) == {"v1"}


async def test_a_broken_connection_to_another_node_is_made_again_even_with_another_key(
    run: Any, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    connect = RayDispatcher.connect
    monkeypatch.setattr(RayDispatcher, "connect", lambda self: (*connect(self)[:2], "another node"))
    run(deployment(Doubles).bind(), "far")
    server, connection = await serving("far")
    await replicas(server, "far", 1)
    dispatcher = server.dispatcher
    model = connection.model("far", queue="all", latency_budget_ms=60_000.0)
    pid = int((await model.infer(timeout_ms=60_000, state=np.ones(2)))["pid"])
    ray.kill(registry(), no_restart=False)
    async with asyncio.timeout(240):
        while not (await registry().watch.remote(-1))[2]:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.02)  # the replica does not have the new key yet
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(240):
            while dispatcher.max_inflight("far"):  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.02)
    finally:
        os.kill(pid, signal.SIGCONT)
    await replicas(server, "far", 1)
    assert int((await model.infer(timeout_ms=60_000, state=np.ones(2)))["pid"]) == pid


async def test_a_replica_that_is_stopped_costs_no_request(run: Any, serving: Serving) -> None:
    run(deployment(Doubles, 2).bind(), "hung")
    server, connection = await serving("hung")
    await replicas(server, "hung", 2)
    victim = await connection.model("hung").infer(timeout_ms=60_000, state=np.ones(2))
    stop = asyncio.Event()
    loads = [asyncio.create_task(load(connection, "hung", stop, seconds=np.array(0.02))) for _ in range(4)]
    os.kill(int(victim["pid"]), signal.SIGSTOP)
    try:
        await replicas(server, "hung", 1)
        result = await connection.model("hung", queue="all").infer(timeout_ms=60_000, state=np.ones(2))
        assert int(result["pid"]) != int(victim["pid"])
        stop.set()
        ends = sum(await asyncio.gather(*loads), Counter())
    finally:
        os.kill(int(victim["pid"]), signal.SIGKILL)
    assert set(ends) == {"v1"}


async def test_a_node_that_goes_costs_no_request(cluster: Any, run: Any, serving: Serving) -> None:
    nodes = [cluster.add_node(num_cpus=1, resources={"far": 1}) for _ in range(2)]
    try:
        run(deployment(Doubles, 2, far=0.6).bind(), "nodes")  # one on each: none of them is the server's own
        server, connection = await serving("nodes")
        await replicas(server, "nodes", 2)
        stop = asyncio.Event()
        loads = [asyncio.create_task(load(connection, "nodes", stop, seconds=np.array(0.02))) for _ in range(4)]
        await connection.model("nodes", queue="all").infer(timeout_ms=60_000, state=np.ones(2))
        node = nodes.pop()
        await asyncio.get_running_loop().run_in_executor(None, lambda: cluster.remove_node(node, allow_graceful=False))
        await replicas(server, "nodes", 1)
        await connection.model("nodes", queue="all").infer(timeout_ms=60_000, state=np.ones(2))
        stop.set()
        ends = sum(await asyncio.gather(*loads), Counter())
        assert set(ends) == {"v1"}
    finally:
        for node in nodes:
            cluster.remove_node(node)


async def test_a_registry_that_is_restarted_costs_neither_requests_nor_replicas(
    run: Any, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    run(deployment(Doubles).bind(), "listed")
    server, connection = await serving("listed")
    await replicas(server, "listed", 1)
    dispatcher = server.dispatcher
    stop = asyncio.Event()
    loads = [asyncio.create_task(load(connection, "listed", stop)) for _ in range(2)]
    before = dispatcher.replicas("listed")
    ray.kill(registry(), no_restart=False)
    async with asyncio.timeout(240):
        while "was restarted" not in caplog.text:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.02)
    assert dispatcher.replicas("listed") == before
    await asyncio.get_running_loop().run_in_executor(
        None, run, deployment(Doubles, 2).options(name="Doubles").bind(), "listed"
    )
    await replicas(server, "listed", 2)  # new ones are let in by the new key
    stop.set()
    assert set(sum(await asyncio.gather(*loads), Counter())) == {"v1"}


async def test_a_redeploy_under_load_loses_no_request(run: Any, serving: Serving) -> None:
    run(deployment(Doubles, 2).bind("v1"), "swapped")
    server, connection = await serving("swapped")
    await replicas(server, "swapped", 2)
    stop = asyncio.Event()
    loads = [asyncio.create_task(load(connection, "swapped", stop, seconds=np.array(0.01))) for _ in range(4)]
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, run, deployment(Doubles, 2).bind("v2"), "swapped")
    model = connection.model("swapped", queue="all", latency_budget_ms=60_000.0)
    async with asyncio.timeout(240):
        while (await model.infer(timeout_ms=60_000, state=np.ones(4))).model_version != "v2":  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.05)
    stop.set()
    ends = sum(await asyncio.gather(*loads), Counter())
    assert set(ends) == {"v1", "v2"}


async def test_load_on_the_endpoints_brings_replicas_and_their_end_takes_them(run: Any, serving: Serving) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 2,
        "metrics_interval_s": 0.2,
        "look_back_period_s": 0.5,
        "upscale_delay_s": 0.2,
        "downscale_delay_s": 0.5,
        "policy": {"policy_function": "inferential.replica:autoscaling_policy"},
    }
    scaled = deployment(Doubles).options(num_replicas=None, autoscaling_config=scaling)
    run(scaled.bind(), "scaled")
    server, connection = await serving("scaled", models={"known": {"scaled": {"max_batch_size": 2}}})
    await replicas(server, "scaled", 1)
    stop = asyncio.Event()
    loads = [asyncio.create_task(load(connection, "scaled", stop, seconds=np.array(0.05))) for _ in range(8)]
    await replicas(server, "scaled", 2)
    stop.set()
    assert set(sum(await asyncio.gather(*loads), Counter())) == {"v1"}
    await replicas(server, "scaled", 1)


def test_the_autoscaler_counts_rows_that_wait_anywhere() -> None:
    class Context:
        def __init__(self, *rows: float) -> None:
            self.aggregated_metrics = {ONGOING: dict(enumerate(rows))}
            self.capacity_adjusted_min_replicas, self.capacity_adjusted_max_replicas = 1, 4
            self.policy_state: dict[str, Any] = {}
            self.config = type("Config", (), {"target_ongoing_requests": 2.0})

    assert autoscaling_policy(Context())[0] == 1
    assert autoscaling_policy(Context(2.0, 3.0))[0] == 3
    assert autoscaling_policy(Context(20.0, 3.0))[0] == 4


def test_what_is_no_class_cannot_have_an_endpoint() -> None:
    with pytest.raises(TypeError, match=r"expected a class"):
        direct(lambda observation: observation)
