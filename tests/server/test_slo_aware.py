"""Deadlines end to end: found, met, refused in time, and the rate that a robot can have."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, LocalDispatcher, RequestExpired, Server, register_policy
from inferential.config import ConfigError, InferentialConfig
from inferential.scheduler import InferenceRequest

Connect = Callable[..., AsyncConnection]
STATE = np.arange(4.0)
WAIT_MS = 60_000
SLO_AWARE = {"scheduling": {"strategy": "slo_aware"}}


class Takes:
    """A model that takes its time; notes how many of its kind run at once."""

    running = 0
    most = 0
    lock = threading.Lock()

    def __init__(self, seconds: float, result: Any = None) -> None:
        self.seconds = seconds
        self.result = result
        self.calls = 0

    def infer(self, observation: dict[str, Any]) -> Any:
        with Takes.lock:
            self.calls += 1
            Takes.running += 1
            Takes.most = max(Takes.most, Takes.running)
        time.sleep(self.seconds)
        with Takes.lock:
            Takes.running -= 1
        return observation if self.result is None else self.result


@pytest.fixture(autouse=True)
def _nothing_runs() -> None:
    Takes.running = Takes.most = 0


@pytest.fixture
def seen() -> list[InferenceRequest]:
    """The requests that the policy `note-deadlines` was asked about."""
    requests: list[InferenceRequest] = []

    @register_policy("note-deadlines")
    def note(request: InferenceRequest) -> float:
        if request not in requests:
            requests.append(request)
        return 0.0

    return requests


def time_ms(request: InferenceRequest) -> float:
    return (request.deadline - request.received_at) * 1e3


async def test_a_deadline_is_what_the_client_tells(serve: Any, connect: Connect, seen: list[InferenceRequest]) -> None:
    async with serve({"m": lambda obs: obs}, {"clients": {"defaults": {"latency_budget_ms": 80.0}}}) as server:
        server.use_scheduler("deadline_aware", policy="note-deadlines")
        connection = connect(server)
        await connection.model("m", latency_budget_ms=30.0).infer(WAIT_MS, steps_remaining=9, state=STATE)
        await connection.model("m", control_rate_hz=50).infer(WAIT_MS, steps_remaining=9, state=STATE)
        await connect(server).model("m").infer(WAIT_MS, state=STATE)
        assert [time_ms(request) for request in seen] == pytest.approx([30.0, 180.0, 80.0])


async def test_a_robot_that_tells_no_steps_is_known_to_run_out_by_its_last_chunk(
    serve: Any, connect: Connect, seen: list[InferenceRequest]
) -> None:
    async with serve({"m": Takes(0.0, {"actions": np.zeros((50, 7))})}) as server:
        server.use_scheduler("deadline_aware", policy="note-deadlines")
        model = connect(server).model("m", control_rate_hz=100)
        for _ in range(2):
            await model.infer(WAIT_MS, state=STATE)
        first, second = seen
        assert time_ms(first) == pytest.approx(50.0)  # nothing is known but the default
        assert second.deadline == pytest.approx(first.received_at + 0.5)


async def test_a_request_that_cannot_be_in_time_is_refused_before_its_deadline_if_it_wants_that(
    serve: Any, connect: Connect, gate: Any
) -> None:
    async with serve({"m": gate}, SLO_AWARE) as server:
        profile = server.profiles.of("m")
        profile.load(1, 1.0, 1.0)
        running = connect(server).model("m", latency_budget_ms=5000.0)
        await running.observe(state=STATE)
        await gate.wait_entered()
        with pytest.raises(RequestExpired, match=r"it cannot be in time: .* ms were left of 1500 ms"):
            await connect(server).model("m", latency_budget_ms=1500.0, late="refuse").infer(WAIT_MS, state=STATE)
        gate.let()


async def test_a_client_that_states_nothing_is_served_late(serve: Any, connect: Connect) -> None:
    async with serve({"m": Takes(0.03)}, SLO_AWARE) as server:
        model = connect(server).model("m", latency_budget_ms=1.0)
        for _ in range(5):
            assert await model.infer(WAIT_MS, state=STATE) is not None


async def test_a_client_overrides_whether_its_model_refuses_late_requests(serve: Any, connect: Connect) -> None:
    config = {**SLO_AWARE, "models": {"known": {"m": {"late": "refuse"}}}}
    async with serve({"m": Takes(0.001)}, config) as server:
        server.profiles.of("m").load(1, 1.0, 1.0)
        patient, strict = connect(server), connect(server)
        assert await patient.model("m", 5.0, late="serve").infer(WAIT_MS, state=STATE) is not None
        server.profiles.of("m").load(1, 1.0, 1.0)
        with pytest.raises(RequestExpired):
            await strict.model("m", 5.0).infer(WAIT_MS, state=STATE)


async def test_models_of_one_device_never_run_at_once(serve: Any, connect: Connect) -> None:
    known = {"a": {"device": "gpu0"}, "b": {"device": "gpu0"}}
    for strategy in ("slo_aware", "deadline_aware"):
        config = {"scheduling": {"strategy": strategy}, "models": {"known": known}}
        async with serve({"a": Takes(0.01), "b": Takes(0.01)}, config) as server:
            handles = [connect(server).model(name, queue="all") for name in ("a", "b") for _ in range(3)]
            await asyncio.gather(*(model.infer(WAIT_MS, state=STATE) for model in handles for _ in range(2)))
        assert Takes.most == 1


async def test_a_list_of_models_is_one_model_in_several_replicas(serve: Any, connect: Connect) -> None:
    class Meets:
        """Goes on once both replicas run."""

        both = threading.Barrier(2, timeout=60)
        calls = 0

        def infer(self, observation: dict[str, Any]) -> Any:
            self.both.wait()
            self.calls += 1
            return observation["state"]

    replicas = [Meets(), Meets()]
    async with serve({"m": replicas}, SLO_AWARE) as server:
        results = await asyncio.gather(*(connect(server).model("m").infer(WAIT_MS, state=STATE) for _ in range(6)))
        assert all(result is not None for result in results)
        assert server.profiles.replicas("m") == ["0", "1"]
    assert [replica.calls for replica in replicas] == [3, 3]


async def test_a_response_has_the_rate_at_which_the_robot_can_be_served(serve: Any, connect: Connect) -> None:
    async with serve({"m": Takes(0.02)}, SLO_AWARE) as server:
        names = [f"robot-{number}" for number in range(4)]
        models = [connect(server, name).model("m") for name in names]  # 4 x 100 Hz of a model that does 50

        async def drive(model: Any) -> None:
            for _ in range(10):
                await model.observe(state=STATE)
                await model.get_result(timeout_ms=10)

        def shared() -> list[float]:
            """What the server shares out now, which the next answers tell."""
            clients = {one.client_id: one.models[0].serve_interval_ms for one in server.status().clients}
            return [clients[name] for name in names]

        sent: list[float] = [0.0]
        async with asyncio.timeout(60):
            while not (all(sent) and sent == pytest.approx(shared(), rel=1e-4)):
                await asyncio.gather(*map(drive, models))
                sent = [model.serve_interval_ms for model in models]
        assert max(sent) == pytest.approx(min(sent))  # robots that are alike
        assert min(sent) > 70  # a quarter of 90% of what calls of 20 ms carry; on a busy machine they take longer


async def test_a_server_begins_with_the_profiles_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    path.write_text(json.dumps({"m": [{"batch_size": 1, "median_ms": 12.0, "high_ms": 15.0}]}))
    config = InferentialConfig.model_validate({"models": {"profiles": str(path)}})
    server = Server(config=config, dispatcher=LocalDispatcher({"m": lambda obs: obs}))
    assert server.profiles.of("m").typical(1) == pytest.approx(0.012)
    path.write_text(json.dumps({"m": [{"batch_size": 0, "median_ms": 12.0}]}))
    with pytest.raises(ConfigError, match=r"m\[0\]: batch_size: expected a whole number above 0, got 0"):
        Server(config=config, dispatcher=LocalDispatcher({"m": lambda obs: obs}))


CHUNK = np.zeros((25, 2), np.float32)


class InBatches:
    """A policy whose calls take more rows than one robot asks for."""

    max_batch_size = 8

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"actions": CHUNK} for _ in observations]


@pytest.mark.parametrize(("objective", "suggested"), [("robot_time", True), ("answers", False)])
async def test_a_robot_that_joins_is_to_ask_early_enough_for_a_call_with_others(
    serve: Any, connect: Connect, tmp_path: Path, objective: str, suggested: bool
) -> None:
    # Long ones, so that what a call takes on a busy machine is little beside them.
    times_ms = {rows: 700.0 + 100 * rows for rows in (1, 8)}
    latencies = [{"batch_size": rows, "median_ms": ms, "high_ms": ms} for rows, ms in times_ms.items()]
    (tmp_path / "profiles.json").write_text(json.dumps({"m": latencies}))
    config = {
        "scheduling": {"strategy": "slo_aware", "slo_aware": {"objective": objective}},
        "models": {"profiles": str(tmp_path / "profiles.json")},
    }
    async with serve({"m": InBatches()}, config) as server:
        await connect(server).model("m").infer(WAIT_MS, state=STATE)  # how long a chunk is
        model = connect(server).model("m", control_rate_hz=5)
        first = await model.infer(WAIT_MS, steps_remaining=0, state=STATE)
        own = await model.infer(WAIT_MS, steps_remaining=24, state=STATE)
    assert (first.execution_horizon is not None and first.execution_horizon < 20) == suggested
    assert own.execution_horizon is None  # it asks earlier than it must
