"""The chunk runtimes against a real server: results of openpi and LeRobot, slow and failing policies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from inferential import (
    AsyncConnection,
    Connection,
    InferenceRequest,
    LocalDispatcher,
    ObservationOutdated,
    RequestExpired,
    Server,
)
from inferential.client.chunks import AsyncChunkRuntime, ChunkRuntime
from inferential.client.chunks.runtime import chunk_of
from inferential.config import InferentialConfig

RATE_HZ = 50.0
HORIZON = 25


class Ramp:
    """A policy whose action for a control step is the step's number; it takes its time."""

    def __init__(self, seconds: float = 0.0, key: str = "actions") -> None:
        self.seconds = seconds
        self.key = key
        self.remaining: list[int] = []

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.seconds)
        step = float(observation["step"])
        steps = np.arange(step, step + HORIZON, dtype=np.float32)
        return {self.key: np.stack([steps, -steps], axis=1), "state": observation["step"]}


class Doubtful:
    """A policy that trusts only the first actions of its chunk."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.zeros((HORIZON, 2), np.float32), "confidence": np.float32(0.2)}


class Inpainter:
    """A policy that freezes what will have been executed, and goes on from there without a jump (RTC)."""

    def __init__(self) -> None:
        self.inputs: list[tuple[int, int, int]] = []
        self.chance = np.random.default_rng(0)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.05)
        own = self.chance.uniform(-1, 1) + np.linspace(0, 0.5, HORIZON)
        left = observation.get("prev_chunk_left_over")
        if left is not None:
            delay = int(observation["inference_delay"])
            self.inputs.append((len(left), delay, int(observation["execution_horizon"])))
            blend = np.clip((np.arange(HORIZON) - delay) / 10, 0, 1)
            before = np.concatenate([left[:, 0], np.full(max(HORIZON - len(left), 0), left[-1, 0])])[:HORIZON]
            own = (1 - blend) * before + blend * own
        return {"actions": own[:, np.newaxis].astype(np.float32)}


@asynccontextmanager
async def serving(model: Any, bind: str = "tcp://127.0.0.1:0", **config: Any) -> AsyncIterator[Server]:
    inputs = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}, **config})
    async with Server(bind, config=inputs, dispatcher=LocalDispatcher({"policy": model})) as server:
        yield server


class Loop:
    """A control loop's own count of steps: what it observes, and what it played."""

    def __init__(self) -> None:
        self.played: list[np.ndarray | None] = []

    def observe(self) -> dict[str, Any]:
        return {"step": np.asarray(float(len(self.played)))}

    def act(self, action: np.ndarray | None) -> None:
        self.played.append(action)

    def is_right_now(self) -> bool:
        """Whether the last action was that of its step."""
        last = self.played[-1]
        return last is not None and float(last[0]) == len(self.played) - 1

    def wrong(self) -> list[int]:
        """The steps at which an action was played that was not theirs."""
        return [at for at, one in enumerate(self.played) if one is not None and float(one[0]) != at]


@pytest.mark.parametrize("key", ["actions", "action"])
async def test_a_robot_plays_the_action_of_each_step_while_the_policy_takes_its_time(key: str) -> None:
    async with serving(Ramp(0.06, key)) as server, AsyncConnection(server.address) as connection:
        loop = Loop()
        runtime = AsyncChunkRuntime(connection.model("policy", control_rate_hz=RATE_HZ), RATE_HZ, index="time")
        await runtime.run(loop.observe, loop.act, seconds=1.5)
        stats = runtime.stats
        assert stats.steps - stats.skipped_steps <= 75 <= stats.steps  # a late last step may skip some past the end
        assert stats.chunks >= 2
        # A machine that is busy elsewhere may cause either: a starved robot holds its last action and is blended in for
        # as long, and one that skipped a step is ahead of the count kept here until its next chunk.
        assert len(loop.wrong()) <= 2 * stats.starved_steps + HORIZON * stats.skipped_steps
        assert stats.delay_steps >= 3


async def test_the_sync_runtime_does_the_same() -> None:
    async with serving(Ramp(0.06)) as server:

        def drive() -> tuple[Loop, ChunkRuntime]:
            with Connection(server.address) as connection:
                loop = Loop()
                runtime = ChunkRuntime(connection.model("policy"), RATE_HZ, starved="stop", index="time")
                runtime.run(loop.observe, loop.act, seconds=1.0)
                return loop, runtime

        loop, runtime = await asyncio.to_thread(drive)
        assert runtime.stats.chunks >= 1
        assert len(loop.wrong()) <= 2 * runtime.stats.starved_steps + HORIZON * runtime.stats.skipped_steps


class Dawdles(Ramp):
    """A policy that at times takes far longer than it says: as if the network had lost its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def infer(self, observation: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        self.calls += 1
        await asyncio.sleep(0.0 if self.calls % 3 else 0.4)
        return super().infer(observation)


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
async def test_a_late_answer_is_nudged(kind: str) -> None:
    nudged: list[int] = []

    def drive(address: str) -> None:
        with Connection(address) as connection:
            loop, model = Loop(), connection.model("policy")
            nudge, model.nudge = model.nudge, lambda: (nudged.append(len(loop.played)), nudge())[1]  # type: ignore[method-assign]
            runtime = ChunkRuntime(model, RATE_HZ, execution_horizon=5)
            while not nudged or runtime.stats.chunks < 3:
                runtime.run(loop.observe, loop.act, seconds=0.4)

    async with serving(Dawdles()) as server:
        if kind == "threads":
            await asyncio.to_thread(drive, server.address)
        else:
            async with AsyncConnection(server.address) as connection:
                loop, model = Loop(), connection.model("policy")
                nudge, model.nudge = model.nudge, lambda: (nudged.append(len(loop.played)), nudge())[1]  # type: ignore[method-assign]
                runtime = AsyncChunkRuntime(model, RATE_HZ, execution_horizon=5)
                while not nudged or runtime.stats.chunks < 3:
                    await runtime.run(loop.observe, loop.act, seconds=0.4)


async def test_steps_remaining_and_control_rate_reach_the_server() -> None:
    async with serving(Ramp(0.02), scheduling={"strategy": "slo_aware"}) as server:
        seen: list[InferenceRequest] = []
        server.on_request(seen.append)
        async with AsyncConnection(server.address) as connection:
            loop = Loop()
            runtime = AsyncChunkRuntime(connection.model("policy", control_rate_hz=RATE_HZ), RATE_HZ)
            for _ in range(20):  # while the machine is busy elsewhere, the robot has played all when it asks
                await runtime.run(loop.observe, loop.act, seconds=0.5)
                if later := [request for request in seen if request.steps_remaining]:
                    break
        assert later
        for request in later:
            due_s = request.deadline - request.received_at
            assert due_s == pytest.approx(request.steps_remaining / RATE_HZ)


@pytest.mark.parametrize(
    ("seconds", "kind"), [(np.nan, ValueError), ("1", TypeError), (None, TypeError), (True, TypeError)]
)
async def test_a_loop_that_is_to_run_for_no_number_of_seconds_is_an_error(seconds: Any, kind: type[Exception]) -> None:
    loop = Loop()
    with pytest.raises(kind, match=r"^seconds: expected a number of seconds"):
        async with AsyncConnection("127.0.0.1:1") as connection:
            await AsyncChunkRuntime(connection.model("policy"), RATE_HZ).run(loop.observe, loop.act, seconds=seconds)
    with pytest.raises(kind, match=r"^seconds: expected a number of seconds"), Connection("127.0.0.1:1") as other:
        ChunkRuntime(other.model("policy"), RATE_HZ).run(loop.observe, loop.act, seconds=seconds)
    assert not loop.played


async def test_a_policy_that_inpaints_makes_chunks_agree() -> None:
    def jumps(played: list[np.ndarray | None]) -> float:
        """The mean of the largest, one for each chunk: a busy machine's delay is not the one that the policy got."""
        values = np.array([float(one[0]) for one in played if one is not None])
        return float(np.sort(np.abs(np.diff(values)))[-8:].mean())

    largest = {}
    for rtc in (False, True):
        policy = Inpainter()
        async with serving(policy) as server, AsyncConnection(server.address) as connection:
            loop = Loop()
            runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ, rtc=rtc, execution_horizon=12)
            await runtime.run(loop.observe, loop.act, seconds=2.0)
        largest[rtc] = jumps(loop.played)
        assert bool(policy.inputs) is rtc
    assert all(left > 0 and 0 < delay <= left and executed > 0 for left, delay, executed in policy.inputs)
    assert largest[True] < largest[False], largest


async def test_refusals_are_counted_and_do_not_end_the_loop() -> None:
    class Fails:
        calls = 0

        def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
            self.calls += 1
            if self.calls % 2:
                raise RuntimeError("a loose cable")
            return Ramp().infer(observation)

    async with serving(Fails()) as server, AsyncConnection(server.address) as connection:
        loop, errors = Loop(), []
        runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ, on_error=errors.append)
        await runtime.run(loop.observe, loop.act, seconds=1.0)
        assert runtime.stats.refused["ModelFailed"] == len(errors) >= 1
        assert runtime.stats.chunks >= 1
        assert not isinstance(errors[0], RequestExpired)


async def test_a_server_that_comes_back_is_asked_again() -> None:
    async with serving(Ramp(0.01)) as server:
        address = server.address
        connection = AsyncConnection(address, reconnect_ivl_ms=10, reconnect_max_ms=50)
        loop = Loop()
        runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ)
        await runtime.run(loop.observe, loop.act, seconds=0.4)
    before = runtime.stats.chunks
    for _ in range(20):  # until its last chunk has been played
        await runtime.run(loop.observe, loop.act, seconds=0.3)
        if runtime.stats.starved_steps:
            break
    assert runtime.stats.starved_steps > 0
    async with serving(Ramp(0.01), address):
        for _ in range(20):  # a machine that is busy elsewhere makes the robot skip steps, which its count here lacks
            await runtime.run(loop.observe, loop.act, seconds=0.5)
            if runtime.stats.chunks > before and loop.is_right_now():
                break
        assert runtime.stats.chunks > before
        assert loop.is_right_now()
    connection.close()


def test_a_chunk_is_found_in_what_policies_give() -> None:
    chunk = np.zeros((5, 2))
    assert chunk_of({"actions": chunk, "state": np.zeros(3), "note": "x"}) is chunk
    assert chunk_of({"action": chunk, "state": np.zeros(3)}) is chunk
    assert chunk_of({"trajectory": chunk}) is chunk
    assert chunk_of({"a": chunk, "b": np.zeros(1)}, "a") is chunk
    assert chunk_of({"actions": np.zeros(7)}).shape == (1, 7)


@pytest.mark.parametrize(
    ("result", "key", "problem"),
    [
        (
            {"a": np.zeros(3), "b": np.zeros(3)},
            None,
            "expected an action chunk at 'actions' or 'action', got arrays at: a",
        ),
        ({"actions": np.zeros(3)}, "plan", "expected an action chunk at 'plan', got arrays at: actions"),
        ({"note": "x"}, None, "got arrays at: none"),
        ({"actions": np.zeros(())}, None, r"result 'actions': expected a chunk \[T, action_dim\], got shape \(\)"),
    ],
)
def test_a_result_without_a_chunk_is_an_error_that_names_what_there_is(
    result: dict[str, Any], key: str | None, problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        chunk_of(result, key)


class Held:
    """A policy with chunks of half a second that answers at once, until it is held."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.01)
        self.free.wait(60)
        return {"actions": np.zeros((HORIZON, 2), np.float32)}


async def test_a_robot_whose_observation_waits_is_asked_for_a_newer_one_and_that_is_answered() -> None:
    held = Held()
    inputs: dict[str, Any] = {"step": np.zeros(1, np.float32)}
    config = {"scheduling": {"strategy": "slo_aware"}}
    async with serving(held, **config) as server, AsyncConnection(server.address) as connection:
        busy = connection.model("policy", control_rate_hz=RATE_HZ)
        for _ in range(4):  # so that the server knows how long calls and chunks are
            assert await busy.infer(timeout_ms=60_000, **inputs) is not None
        held.free.clear()
        await busy.observe(steps_remaining=0, **inputs)
        async with AsyncConnection(server.address) as other:
            waiting = other.model("policy", control_rate_hz=RATE_HZ)
            # By time: one that goes on where it stands has nothing newer to send while it does.
            inputs |= {"steps_remaining": 0, "renews": True, "plays_by_time": True}
            first = await waiting.observe(**inputs)
            with pytest.raises(ObservationOutdated) as raised:
                await waiting.get_result(timeout_ms=60_000)
            assert raised.value.request_id == first
            assert raised.value.turn_in_ms is not None
            second = await waiting.observe(**inputs)
            await asyncio.sleep(0.005)  # so that the server reads it before the call ends
            held.free.set()
            result = None
            while result is None:
                try:
                    result = await waiting.get_result(timeout_ms=60_000)
                except ObservationOutdated:  # the call took long
                    second = await waiting.observe(**inputs)
        assert result is not None
        assert first < result.request_id <= second


@pytest.mark.parametrize(("follows", "most"), [(True, 40), (False, 8)])
async def test_a_runtime_plays_as_much_of_a_chunk_as_the_model_trusts(follows: bool, most: int) -> None:
    async with serving(Doubtful()) as server, AsyncConnection(server.address) as connection:
        # So few a second that no round trip takes more than a step: a robot asks earlier by those that one takes.
        model = connection.model("policy", control_rate_hz=1.0)
        runtime = AsyncChunkRuntime(model, 1.0, follow_horizon=follows)
        for _ in range(100):
            await runtime.step({"step": np.zeros(1)})
            await asyncio.sleep(0.002)
        result = await model.infer(60_000, steps_remaining=3, step=np.zeros(1))
        assert result is not None
        assert result.execution_horizon == 5
    assert runtime.stats.chunks <= most
    assert follows == (runtime.stats.chunks > 10)
