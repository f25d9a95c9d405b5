"""What a server may answer to a chunk runtime: good chunks in any form are played, all others counted, none raises."""

from __future__ import annotations

from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
from tests.client.chunks.test_runtime import RATE_HZ, serving

from inferential import AsyncConnection, InvalidChunk
from inferential.client import ActionSpec, AsyncChunkRuntime, Connection, sync
from inferential.client.chunks import ChunkRuntime

STATE = {"state": np.zeros(3, np.float32)}
GOOD = np.ones((10, 3), np.float32)


async def played(answer: Any, seconds: float = 0.4, **options: Any) -> tuple[AsyncChunkRuntime, list[Any], list[Any]]:
    actions: list[Any] = []
    errors: list[Any] = []
    async with serving(lambda observation: answer) as server, AsyncConnection(server.address) as connection:
        model = connection.model("policy", control_rate_hz=RATE_HZ)
        runtime = AsyncChunkRuntime(model, RATE_HZ, on_error=errors.append, **options)
        await runtime.run(lambda: STATE, actions.append, seconds=seconds)
    return runtime, [action for action in actions if action is not None], errors


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.full((10, 3), np.nan), "expected finite numbers, got nan"),
        (np.full((10, 3), -np.inf), "expected finite numbers, got -inf"),
        (np.zeros((2, 10, 3)), r"or \[1, T, action_dim\], got shape \(2, 10, 3\)"),
        (np.zeros((0, 3)), r"got shape \(0, 3\)"),
        ({"text": "I cannot"}, "got arrays at: none"),
        ({"a": GOOD, "b": GOOD}, "got arrays at: a, b"),
        ({"action.arm": GOOD, "action.hand": GOOD[:4]}, "got 10 at 'action.arm', 4 at 'action.hand'"),
    ],
)
async def test_a_bad_chunk_is_refused_counted_and_never_raises(answer: Any, problem: str) -> None:
    runtime, actions, errors = await played(answer)
    assert not actions
    assert runtime.stats.refused["InvalidChunk"] == len(errors) >= 1
    assert all(isinstance(error, InvalidChunk) for error in errors)
    with pytest.raises(InvalidChunk, match=problem):
        raise errors[0]


async def test_a_refusal_is_logged_once_a_minute_where_no_function_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(lambda observation: GOOD) as server, AsyncConnection(server.address) as connection:
        runtime = AsyncChunkRuntime(connection.model("polcy"), RATE_HZ)
        await runtime.run(lambda: STATE, lambda action: None, seconds=0.4)
        silent = AsyncChunkRuntime(connection.model("polcy"), RATE_HZ, on_error=lambda error: None)
        await silent.run(lambda: STATE, lambda action: None, seconds=0.2)
    assert runtime.stats.refused["UnknownModel"] > 1
    assert silent.stats.refused["UnknownModel"] >= 1
    assert [record.getMessage() for record in caplog.records if record.name == "inferential.client"] == [
        "no chunk of polcy: UnknownModel: no model 'polcy'; there is: policy"
    ]


async def test_a_chunk_against_the_spec_is_refused() -> None:
    spec = ActionSpec(shape=(3,), low=-1, high=1, max_change=0.5)
    for bad in (GOOD * 2, GOOD[:, :2], np.cumsum(GOOD, axis=0) / 20 * 12 - 1):
        runtime, actions, _ = await played(bad, action_spec=spec)
        assert not actions
        assert runtime.stats.refused["InvalidChunk"] >= 1
    _, actions, _ = await played(GOOD, action_spec={"shape": [3], "high": 1.0})
    assert actions


@pytest.mark.parametrize(
    ("answer", "stop", "problem"),
    [
        (GOOD, np.zeros(2), r"expected actions as stop_action, of shape \(2,\), got \(3,\)"),
        (GOOD, 0.0, r"of shape \(\), got \(3,\)"),
        (
            {"action.arm": GOOD, "action.hand": GOOD},
            np.zeros(3),
            r"\(3,\), got {'action.arm': \(3,\), 'action.hand': .*}",
        ),
        (GOOD, {"action.arm": np.zeros(3)}, r"of shape {'action.arm': \(3,\)}, got \(3,\)"),
    ],
)
async def test_chunks_that_are_no_actions_as_the_stop_action_is_are_refused(
    answer: Any, stop: Any, problem: str
) -> None:
    runtime, actions, errors = await played(answer, stop_action=stop)
    assert actions
    for action in actions:
        np.testing.assert_equal(action, stop)
    assert runtime.stats.refused["InvalidChunk"] == len(errors) >= 1
    with pytest.raises(InvalidChunk, match=problem):
        raise errors[0]


@pytest.mark.parametrize(
    "answer", [GOOD, GOOD[np.newaxis], GOOD[0], {"action": GOOD[np.newaxis], "state": np.zeros(9)}]
)
async def test_a_batch_of_one_and_a_single_action_are_played(answer: Any) -> None:
    _, actions, _ = await played(answer)
    assert actions
    assert all(action.tolist() == [1, 1, 1] for action in actions)


async def test_chunks_over_several_keys_are_played_together() -> None:
    arm = np.arange(20, dtype=np.float32).reshape(1, 10, 2)
    hand = np.arange(10, dtype=np.float32)
    runtime, actions, _ = await played({"action.left_arm": arm, "action.hand": hand, "state": np.zeros(4)}, 0.6)
    assert runtime.stats.chunks >= 1
    for action in actions:
        assert action.keys() == {"action.left_arm", "action.hand"}
        assert action["action.left_arm"].shape == (2,)
        assert action["action.left_arm"][0] == pytest.approx(2 * action["action.hand"], abs=1e-4)


async def test_chunks_that_are_a_map_in_a_map_are_played_together() -> None:
    _, actions, _ = await played({"action": {"arm": GOOD, "hand": GOOD[:, 0]}})
    assert actions
    assert {key: value.shape for key, value in actions[0].items()} == {"action/arm": (3,), "action/hand": ()}


async def test_a_chunk_of_another_shape_than_before_is_refused_and_the_robot_goes_on() -> None:
    calls = iter(range(10**6))

    def policy(observation: Any) -> Any:
        return GOOD if next(calls) % 2 == 0 else GOOD[:, :2]

    actions: list[Any] = []
    async with serving(policy) as server, AsyncConnection(server.address) as connection:
        runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ)
        await runtime.run(lambda: STATE, actions.append, seconds=1.0)
    assert runtime.stats.refused["InvalidChunk"] >= 1
    assert runtime.stats.chunks >= 2
    assert {action.shape for action in actions if action is not None} == {(3,)}


async def test_a_reset_reaches_the_server_and_nothing_of_the_last_episode_is_played() -> None:
    seen: list[Any] = []
    async with serving(lambda observation: np.full((50, 1), observation["n"])) as server:
        server.on_request(seen.append)
        async with AsyncConnection(server.address) as connection:
            runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ)
            actions: list[Any] = []
            for episode in range(2):
                await runtime.run(lambda n=episode: {"n": np.array(float(n))}, actions.append, seconds=0.3)
                if episode == 0:
                    assert actions[-1] == 0.0
                    await runtime.reset()
                    actions.clear()
    assert actions[0] is None
    assert {float(action[0]) for action in actions if action is not None} == {1.0}
    assert {request.episode for request in seen} == {0, 1}


def test_the_first_step_waits_for_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "FIRST_CONNECT_MS", 3.6e6)  # if it waited, it would for an hour
    monkeypatch.setattr(sync, "FULL_SOCKET_MS", 3.6e6)
    with Connection("tcp://127.0.0.1:1", client_id="arm") as connection:
        runtime = ChunkRuntime(connection.model("policy"), RATE_HZ)
        for _ in range(3):
            assert runtime.step(STATE) is None


@pytest.mark.parametrize("key", ["steps_remaining", "renews", "played_id", "played_from", "plays_by_time"])
def test_a_value_whose_key_the_runtime_uses_itself_is_an_error_and_goes_by_observation(key: str) -> None:
    with Connection("tcp://127.0.0.1:1", client_id="arm") as connection:
        runtime = ChunkRuntime(connection.model("policy"), RATE_HZ)
        with pytest.raises(ValueError, match=rf"^observe: expected no '{key}', .* observation=\{{...\}}"):
            runtime.step({key: np.ones(3)})
        assert runtime.stats.asked == 0
        assert runtime.step({"observation": {key: np.ones(3)}}) is None
        assert runtime.stats.asked == 1


@pytest.mark.parametrize("index", ["executed", "time"])
def test_the_server_is_informed_where_chunks_are_played_by_time(index: Literal["executed", "time"]) -> None:
    seen: list[dict[str, Any]] = []
    with Connection("tcp://127.0.0.1:1", client_id="arm") as connection:
        model = connection.model("policy")
        with patch.object(model, "observe", lambda **values: seen.append(values) or 1):
            ChunkRuntime(model, RATE_HZ, index=index).step(STATE)
    assert seen[0]["renews"] is True
    assert seen[0].get("plays_by_time", False) == (index == "time")
