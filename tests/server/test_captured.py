"""Ages of observations from the robot to the model, over real sockets: counted, refused, and seen by models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Serve, echo
from tests.server.test_hostile import dealer, observation, tensor

from inferential import AsyncConnection, Connection, RequestRejected
from inferential.client import ChunkRuntime
from inferential.client.tracing import TracedAsyncModel, TracedModel
from inferential.proto import Captured
from inferential.replica.spec import ModelProcess

STATE = np.zeros(3, np.float32)


def ages_of(server: Any, name: str = "observation_staleness_ms") -> list[float]:
    return [point["value"] for point in server.metrics.snapshot().metrics.get(name, ())]


def in_thread(drive: Callable[[Any], Any], server: Any) -> Any:
    def run() -> Any:
        with Connection(server.address, client_id="arm") as connection:
            return drive(connection.model("m", latency_budget_ms=60_000.0))

    return asyncio.to_thread(run)


def seconds_ago(seconds: float) -> dict[str, Any]:
    return {"state": STATE, "captured_at": time.monotonic() - seconds}


def drive_threads(model: Any) -> None:
    assert model.infer(60_000, **seconds_ago(0.3)) is not None
    model.observe(**seconds_ago(0.3))
    assert model.get_result(60_000) is not None
    assert model.infer(60_000, state=STATE, captured_at=time.time_ns() - 300_000_000, clock="wall") is not None


async def drive_asyncio(model: Any) -> None:
    assert await model.infer(60_000, **seconds_ago(0.3)) is not None
    await model.observe(**seconds_ago(0.3))
    assert await model.get_result(60_000) is not None


async def test_every_kind_of_handle_says_how_old_its_observations_are(serve: Serve) -> None:
    async with serve({"m": echo}) as server, AsyncConnection(server.address, client_id="arm-2") as connection:
        await in_thread(drive_threads, server)
        await in_thread(lambda model: drive_threads(TracedModel(model)), server)
        await drive_asyncio(connection.model("m"))
        await drive_asyncio(TracedAsyncModel(connection.model("m")))
        async with server.connect("inside") as inside:
            await drive_asyncio(inside.model("m"))
        ages = ages_of(server)
        assert len(ages) == 12
        assert all(300 <= age_ms < 60_000 for age_ms in ages), ages


async def test_a_chunk_runtime_says_it_of_the_observations_of_its_source(serve: Serve) -> None:
    async with serve({"m": lambda observation: np.zeros((20, 2), np.float32)}) as server:

        def drive(model: Any) -> None:
            runtime = ChunkRuntime(model, control_rate_hz=50)
            while runtime.step(lambda: seconds_ago(0.4)) is None:
                time.sleep(0.005)

        await in_thread(drive, server)
        assert ages_of(server)[0] >= 400


async def test_a_stale_observation_is_counted_and_answered(serve: Serve) -> None:
    async with serve({"m": echo}, {"observations": {"max_staleness_ms": 20_000}}) as server:
        assert await in_thread(lambda model: model.infer(60_000, **seconds_ago(30.0)), server) is not None
        assert await in_thread(lambda model: model.infer(60_000, **seconds_ago(0.0)), server) is not None
        assert len(ages_of(server, "observations_stale")) == 1


async def test_a_stale_observation_is_refused_where_that_is_configured(serve: Serve) -> None:
    async with serve({"m": echo}, {"observations": {"max_staleness_ms": 20_000, "stale": "refuse"}}) as server:

        def drive(model: Any) -> str:
            assert model.infer(60_000, **seconds_ago(0.0)) is not None
            assert model.infer(60_000, state=STATE) is not None
            with pytest.raises(RequestRejected) as caught:
                model.infer(60_000, **seconds_ago(30.0))
            assert model.infer(60_000, **seconds_ago(0.0)) is not None
            return caught.value.reason

        reason = await in_thread(drive, server)
        assert "ms old on arrival, observations.max_staleness_ms is 20000" in reason
        assert len(ages_of(server, "observations_stale")) == 1
        assert max(ages_of(server)) >= 30_000
        (refused,) = server.metrics.snapshot().metrics["requests_rejected"]
        assert refused["labels"] == {"client": "arm", "model": "m", "error": "stale"}


def apart(seconds: float, **more: Any) -> dict[str, Any]:
    now = time.monotonic()
    images = {"camera/left": STATE, "camera/right": STATE}
    return {**images, "timestamps": {"camera/left": now, "camera/right": now - seconds}, **more}


async def test_values_that_were_seen_apart_are_counted(serve: Serve) -> None:
    async with serve({"m": echo}) as server:

        def drive(model: Any) -> None:
            model.infer(60_000, **apart(0.005))
            model.infer(60_000, **apart(0.08))
            # The others were seen when the observation was.
            seen = apart(0.001, joints=STATE)
            model.infer(60_000, **seen, captured_at=seen["timestamps"]["camera/left"] - 0.15)

        await in_thread(drive, server)
        assert ages_of(server, "observation_misalignment_ms") == pytest.approx([80, 150], abs=2)


async def test_values_that_were_seen_apart_are_refused_where_that_is_configured(serve: Serve) -> None:
    async with serve({"m": echo}, {"observations": {"misaligned": "refuse"}}) as server:

        def drive(model: Any) -> str:
            assert model.infer(60_000, **apart(0.005)) is not None
            with pytest.raises(RequestRejected) as caught:
                model.infer(60_000, **apart(0.08))
            return caught.value.reason

        reason = await in_thread(drive, server)
        assert "seen 80 ms apart, observations.temporal_alignment_threshold_ms is 20" in reason
        assert len(ages_of(server, "observation_misalignment_ms")) == 1


async def test_timestamps_of_tensors_count_for_clients_that_send_these(serve: Serve) -> None:
    async with serve({"m": echo}, {"observations": {"misaligned": "refuse"}}) as server:

        def drive() -> str:
            with dealer(server.address, b"arm") as socket:
                message, now_ns = observation("arm"), time.time_ns()
                message.tensors.append(tensor(key="left", timestamp_ns=now_ns - 90_000_000))
                message.tensors.append(tensor(key="right", timestamp_ns=now_ns))
                socket.send_multipart([b"", message.SerializeToString(), bytes(8)])
                return socket.recv_multipart()[1].decode(errors="replace")

        assert "apart" in await asyncio.to_thread(drive)
        assert ages_of(server, "observation_misalignment_ms") == pytest.approx([90], abs=5)


@pytest.mark.parametrize(
    "captured",
    [
        Captured(age_ms=float("nan")),
        Captured(age_ms=-1.0),
        Captured(age_ms=1.0, held_ms=float("inf")),
        Captured(age_ms=1.0, tensor_ages_ms={"x": -5.0}),
        Captured(age_ms=1.0, tensor_ages_ms={str(number): 1.0 for number in range(200)}),
        Captured(age_ms=1.0, tensor_ages_ms={"x" * 300: 1.0}),
    ],
)
async def test_an_age_that_is_none_is_refused_with_its_field(serve: Serve, captured: Captured) -> None:
    async with serve({"m": echo}) as server:

        def drive() -> bytes:
            with dealer(server.address, b"arm") as socket:
                message = observation("arm")
                message.captured.CopyFrom(captured)
                socket.send_multipart([b"", message.SerializeToString(), b""])
                return socket.recv_multipart()[1]

        assert b"captured" in await asyncio.to_thread(drive)


async def test_a_wrong_time_is_an_error_on_the_robot_and_sends_nothing(serve: Serve) -> None:
    async with serve({"m": echo}) as server:

        def drive(model: Any) -> None:
            with pytest.raises(ValueError, match=r"captured_at: .* got nan"):
                model.observe(state=STATE, captured_at=float("nan"))
            with pytest.raises(ValueError, match="timestamps: the observation has no key 'arm'"):
                model.infer(1000, state=STATE, timestamps={"arm": time.monotonic()})
            assert model.infer(60_000, state=STATE) is not None

        await in_thread(drive, server)
        assert len(ages_of(server)) == 1


WATCHERS = """
import time
import numpy as np

class Watcher:
    sees_timestamps = True

    def infer(self, observation):
        if "captured_at" not in observation:
            return {"keys": " ".join(sorted(observation))}
        now = time.monotonic()
        times = {"age": observation["captured_at"], **observation["timestamps"]}
        return {key: np.float64(now - at) for key, at in times.items()}

class Blind(Watcher):
    sees_timestamps = False
"""


@pytest.fixture(params=["thread", "process"])
def watchers(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A model that sees when its observations were seen and says how long ago that was, and one that does not."""
    if request.param == "process":
        (tmp_path / "captured_watchers.py").write_text(WATCHERS)
        monkeypatch.chdir(tmp_path)
        return {"m": ModelProcess("captured_watchers:Watcher"), "blind": ModelProcess("captured_watchers:Blind")}
    names: dict[str, Any] = {}
    exec(WATCHERS, names)
    return {"m": names["Watcher"](), "blind": names["Blind"]()}


async def test_a_model_that_asks_sees_when_its_observation_was_seen(serve: Serve, watchers: dict[str, Any]) -> None:
    async with serve(watchers) as server, AsyncConnection(server.address, client_id="arm") as connection:
        now = time.monotonic()
        given = {"left": STATE, "right": STATE, "captured_at": now - 0.1, "timestamps": {"left": now - 0.3}}
        result = await connection.model("m").infer(60_000, **given)
        assert result is not None
        assert 0.1 <= float(result["age"]) < 2
        assert 0.3 <= float(result["left"]) < 2
        assert float(result["left"]) - float(result["age"]) == pytest.approx(0.2, abs=1e-3)
        for model, values in (("m", {"left": STATE}), ("blind", given)):
            result = await connection.model(model).infer(60_000, **values)
            assert result is not None
            assert "captured_at" not in str(result["keys"])


async def test_an_observation_that_waited_for_its_server_says_so(serve: Serve) -> None:
    async with serve({"m": echo}) as server:
        address = server.address

        def drive() -> Any:
            with Connection("127.0.0.1:1," + address.removeprefix("tcp://"), client_id="arm") as connection:
                return connection.model("m", latency_budget_ms=60_000.0).infer(60_000, **seconds_ago(0.2))

        assert await asyncio.to_thread(drive) is not None
        assert ages_of(server)[0] >= 200


async def test_a_robot_of_a_gateway_may_have_values_of_these_names(serve: Serve) -> None:
    async with serve({"m": echo}) as server, server.connect("inside") as inside:
        model = inside.model("m")
        values = {
            "timestamps": STATE,
            "captured_at": STATE,
            "clock": STATE,
            "renews": STATE,
            "observation": {"a": STATE},
        }
        result = await inside.infer(model, values, 5000)
        assert result is not None
        assert {"timestamps", "captured_at", "clock", "renews"} <= result.keys()


async def test_an_observation_that_becomes_stale_in_the_queue_is_refused(
    serve: Serve, pass_time: Callable[[float], None]
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(seen: dict[str, Any]) -> dict[str, Any]:
        entered.set()
        await leave.wait()
        return {"actions": seen["state"]}

    async with (
        serve({"m": slow}, {"observations": {"max_staleness_ms": 4000, "stale": "refuse"}}) as server,
        AsyncConnection(server.address) as first,
        AsyncConnection(server.address) as second,
    ):
        running = asyncio.create_task(first.model("m").infer(60_000, **seconds_ago(0.0)))
        await asyncio.wait_for(entered.wait(), 60)
        waiting = asyncio.create_task(second.model("m").infer(60_000, **seconds_ago(0.0)))
        async with asyncio.timeout(60):
            while not server.status().waiting:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.001)
        pass_time(5.0)
        with pytest.raises(RequestRejected, match="while it waited it became older"):
            await waiting
        leave.set()
        assert await running is not None  # it was young enough when it began
