"""The way of a request, over real sockets: answers, batches, limits, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Gate

from inferential import (
    AsyncConnection,
    ModelFailed,
    Png,
    RequestExpired,
    RequestRejected,
    RequestSuperseded,
    UnknownModel,
    register_policy,
)

WAIT_MS = 60_000
STATE = np.arange(7, dtype=np.float32)
Connect = Callable[..., AsyncConnection]


async def until(condition: Callable[[], bool]) -> None:
    """Lets the event loop run until something is so."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (no event is set)
            await asyncio.sleep(0.001)


async def test_a_robot_gets_the_answer_of_the_model_it_asked(serve: Any, connect: Connect) -> None:
    async with serve(
        {"double": lambda obs: obs["state"] * 2, "negate": lambda obs: {"actions": -obs["state"]}}
    ) as server:
        connection = connect(server, "robot")
        double, negate = connection.model("double"), connection.model("negate")
        request_id = await double.observe(state=STATE)
        await negate.observe(state=STATE)
        doubled = await double.get_result(WAIT_MS)
        negated = await negate.get_result(WAIT_MS)
        assert doubled is not None
        assert negated is not None
        np.testing.assert_array_equal(doubled["actions"], STATE * 2)
        np.testing.assert_array_equal(negated["actions"], -STATE)
        assert doubled["model_id"] == "double"
        assert doubled["response_id"] != negated["response_id"]
        assert doubled.request_id == request_id
        assert doubled.timing is not None
        assert doubled.timing.batch_size == 1
        assert 0 <= doubled.timing.queue_ms <= doubled.timing.server_ms


async def test_a_model_sees_arrays_text_and_decoded_images(serve: Any, connect: Connect) -> None:
    image = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    async with serve({"m": lambda obs: obs}) as server:
        model = connect(server).model("m")
        result = await model.infer(WAIT_MS, state=STATE, camera=Png(image), prompt="pick up the cube")
        assert result is not None
        np.testing.assert_array_equal(result["camera"], image)
        np.testing.assert_array_equal(result["state"], STATE)
        assert result["prompt"] == "pick up the cube"


async def test_what_waits_when_a_slot_is_freed_runs_as_one_batch_across_clients(
    serve: Any, connect: Connect, make_stacker: Any
) -> None:
    stacker = make_stacker()
    async with serve({"m": stacker}) as server:
        models = [connect(server, f"robot-{n}").model("m") for n in range(6)]
        results = await asyncio.gather(*(model.infer(WAIT_MS, state=STATE + n) for n, model in enumerate(models)))
        for n, result in enumerate(results):
            assert result is not None
            np.testing.assert_array_equal(result["actions"], (STATE + n) * 2)
        assert sum(stacker.sizes) == 6
        assert len(stacker.sizes) < 6


async def test_a_batch_is_never_larger_than_the_model_and_the_configuration_allow(
    serve: Any, connect: Connect, make_stacker: Any
) -> None:
    stacker = make_stacker()
    config = {"models": {"known": {"m": {"max_batch_size": 2}}}}
    async with serve({"m": stacker}, config) as server:
        model = connect(server).model("m", queue="all")
        for _ in range(9):
            await model.observe(state=STATE)
        for _ in range(9):
            assert await model.get_result(WAIT_MS) is not None
        assert max(stacker.sizes) == 2


async def test_one_bad_observation_fails_alone_in_its_batch(serve: Any, connect: Connect, make_stacker: Any) -> None:
    stacker = make_stacker()
    async with serve({"m": stacker}) as server:
        good, bad = connect(server, "good").model("m", queue="all"), connect(server, "bad").model("m", queue="all")
        for _ in range(4):
            await good.observe(state=STATE)
            await bad.observe(state=np.zeros(3, dtype=np.float32), wrong="shape")
        for _ in range(4):
            assert await good.get_result(WAIT_MS) is not None


async def test_the_exception_of_a_model_reaches_the_client_that_asked(serve: Any, connect: Connect) -> None:
    def broken(observation: dict[str, Any]) -> None:
        raise RuntimeError("out of memory")

    async with serve({"m": broken}) as server:
        model = connect(server).model("m")
        request_id = await model.observe(state=STATE)
        with pytest.raises(ModelFailed, match="out of memory") as caught:
            await model.get_result(WAIT_MS)
        assert caught.value.request_id == request_id
        assert caught.value.model_id == "m"
        assert server.metrics.get_latest("dispatch_errors", {"error": "RuntimeError"}) == 1.0


async def test_a_failed_request_is_tried_again_as_often_as_configured(serve: Any, connect: Connect) -> None:
    seen: list[float] = []

    def flaky(observation: dict[str, Any]) -> Any:
        seen.append(float(observation["state"][0]))
        if len(seen) < 3:
            raise RuntimeError("not yet")
        return observation["state"]

    async with serve({"m": flaky}, {"scheduling": {"max_retries": 2}}) as server:
        result = await connect(server).model("m").infer(WAIT_MS, state=STATE + 5)
        assert result is not None
        assert seen == [5.0] * 3
        assert server.metrics.get_stats("dispatch_retries").count == 2


async def test_an_unknown_model_is_an_error_that_names_those_there_are(serve: Any, connect: Connect) -> None:
    async with serve({"policy": lambda obs: obs}) as server:
        with pytest.raises(UnknownModel, match="no model 'polcy'; there is: policy"):
            await connect(server).model("polcy").infer(WAIT_MS, state=STATE)


async def test_a_client_that_is_not_known_is_refused_where_only_known_ones_are_accepted(
    serve: Any, connect: Connect
) -> None:
    clients = {"accept_unknown": False, "known": [{"id": "ours", "model": "m"}]}
    async with serve({"m": lambda obs: obs}, {"clients": clients}) as server:
        assert await connect(server, "ours").model("m").infer(WAIT_MS, state=STATE) is not None
        with pytest.raises(RequestRejected, match="'theirs' is not accepted") as refused:
            await connect(server, "theirs").model("m").infer(WAIT_MS, state=STATE)
        assert refused.value.cause == "not_accepted"


async def test_the_operators_settings_take_precedence_over_the_clients(serve: Any, connect: Connect) -> None:
    seen: list[tuple[float, int]] = []

    @register_policy("note-rights")
    def note(request: Any) -> float:
        seen.append((request.latency_budget_ms, request.priority))
        return 0.0

    clients = {"known": [{"id": "ours", "model": "m", "latency_budget_ms": 20.0, "priority": 0}]}
    async with serve({"m": lambda obs: obs}, {"clients": clients}) as server:
        server.use_scheduler("deadline_aware", policy="note-rights")
        for client in ("ours", "theirs"):
            await connect(server, client).model("m", latency_budget_ms=70.0, priority=3).infer(WAIT_MS, state=STATE)
        assert set(seen) == {(20.0, 0), (70.0, 3)}


async def test_a_newer_observation_supersedes_one_that_waits(serve: Any, connect: Connect, gate: Any) -> None:
    async with serve({"m": gate}) as server:
        model = connect(server).model("m")
        await model.observe(state=STATE)
        await gate.wait_entered()
        waiting = asyncio.ensure_future(model.infer(WAIT_MS, state=STATE + 1))
        await until(lambda: server.status().waiting == 1)
        await model.observe(state=STATE + 2)
        with pytest.raises(RequestSuperseded):
            await waiting
        gate.let(2)
        await until(lambda: gate.calls == 2)
        await until(lambda: not server.status().sizes["call_tasks"])
        result = await model.get_result(WAIT_MS)
        assert result is not None
        while (newer := await model.get_result(200)) is not None:
            result = newer
        np.testing.assert_array_equal(result["state"], STATE + 2)
        assert gate.calls == 2


@pytest.mark.parametrize(
    ("supersede", "queue", "answers"), [("aware", "all", 4), ("off", "latest", 4), ("all", "all", 2)]
)
async def test_superseding_follows_the_configuration(
    supersede: str, queue: Any, answers: int, serve: Any, connect: Connect, gate: Any
) -> None:
    async with serve({"m": gate}, {"scheduling": {"supersede": supersede}}) as server:
        model = connect(server).model("m", queue=queue)
        await model.observe(state=STATE)
        await gate.wait_entered()
        for n in range(3):
            await model.observe(state=STATE + n)
        await until(lambda: server.status().waiting == answers - 1)
        gate.let(4)
        await until(
            lambda: gate.calls == answers and not server.status().sizes["call_tasks"] and not server.status().waiting
        )


async def test_a_slow_model_leaves_the_others_and_the_event_loop_alone(serve: Any, connect: Connect, gate: Any) -> None:
    async with serve({"slow": gate, "quick": lambda obs: obs}) as server:
        connection = connect(server)
        slow = connection.model("slow", queue="all")
        for _ in range(5):
            await slow.observe(state=STATE)
        await gate.wait_entered()
        for _ in range(20):
            assert await connection.model("quick").infer(WAIT_MS, state=STATE) is not None
        assert gate.calls == 1
        gate.let(5)
        for _ in range(5):
            assert await slow.get_result(WAIT_MS) is not None


async def test_as_many_calls_of_a_model_run_at_once_as_configured(serve: Any, connect: Connect, gate: Any) -> None:
    async with serve({"m": gate}, {"models": {"known": {"m": {"max_inflight": 3}}}}) as server:
        model = connect(server).model("m", queue="all")
        for _ in range(5):
            await model.observe(state=STATE)
        for _ in range(3):
            await gate.wait_entered()
        await until(lambda: server.status().waiting == 2)
        assert gate.calls == 3
        gate.let(5)
        for _ in range(5):
            assert await model.get_result(WAIT_MS) is not None


async def test_the_strategy_can_be_swapped_while_requests_wait(serve: Any, connect: Connect, gate: Any) -> None:
    async with serve({"m": gate}) as server:
        model = connect(server).model("m", queue="all")
        for n in range(6):
            await model.observe(state=STATE + n)
        await gate.wait_entered()
        await until(lambda: server.status().waiting == 5)
        for strategy in ("round_robin", "batch_optimized", "priority_tiered", "model_deadline", "deadline_aware"):
            server.use_scheduler(strategy, request_ttl_ms=60_000.0)
            assert server.status().waiting == 5
        gate.let(6)
        for n in range(6):
            result = await model.get_result(WAIT_MS)
            assert result is not None
            assert result["state"][0] == n


async def test_the_loop_is_quiet_while_nothing_happens(serve: Any, connect: Connect) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        model = connect(server).model("m")
        assert await model.infer(WAIT_MS, state=STATE) is not None
        before = server.status().counters["pump_runs"]
        await asyncio.sleep(0.05)
        woken = server.status().counters["pump_runs"] - before
        assert woken <= 2  # the sweep over the clients, a few times a second, and nothing else


async def test_a_request_expires_in_time_although_nothing_else_happens(
    serve: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    monkeypatch.setattr("inferential.tracking.fleet.SWEEP_S", 3600.0)
    gate = Gate()
    config = {"scheduling": {"request_ttl_ms": 20_000.0}, "response_tracking": {"disconnect_timeout_s": 36_000.0}}
    async with serve({"m": gate}, config) as server:
        first, second = connect(server, "first").model("m"), connect(server, "second").model("m")
        await first.observe(state=STATE)
        await gate.wait_entered()
        waiting = asyncio.create_task(second.infer(WAIT_MS, state=STATE))
        await until(lambda: server.status().waiting == 1)
        pass_time(21.0)
        with pytest.raises(RequestExpired):
            await waiting  # the model is still busy
        gate.let()
        assert await first.get_result(WAIT_MS) is not None


async def test_a_policy_sees_that_a_client_is_overdue(
    serve: Any, connect: Connect, gate: Any, pass_time: Callable[[float], None]
) -> None:
    seen: list[float] = []

    @register_policy("note-time-until-next")
    def note(request: Any) -> float:
        seen.append(request.time_until_next)
        return 0.0

    async with serve({"m": gate}, {"response_tracking": {"disconnect_timeout_s": 36_000.0}}) as server:
        server.use_scheduler("deadline_aware", policy="note-time-until-next")
        model = connect(server, "arm").model("m", queue="all")
        gate.let(6)
        for _ in range(6):
            assert await model.infer(WAIT_MS, state=STATE) is not None
            pass_time(5.0)
        assert seen[-1] > 0
        await model.observe(state=STATE)
        await gate.wait_entered()
        await model.observe(state=STATE)  # waits, and no other observation follows
        await until(lambda: server.status().waiting == 1)
        period_s = server.status().clients[0].models[0].cadence_ms / 1e3
        pass_time(period_s + 1.0)
        gate.let(2)
        for _ in range(2):
            assert await model.get_result(WAIT_MS) is not None
        assert seen[-1] < 0
