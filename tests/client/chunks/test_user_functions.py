"""What the functions that a user gives a chunk runtime may do: raise, return nothing, be coroutine functions."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.client.chunks.test_runtime import RATE_HZ, Ramp, serving

from inferential import AsyncConnection, Connection
from inferential.client import AsyncChunkRuntime, ChunkRuntime
from inferential.client.chunks.player import Player


def broken(*_: Any) -> Any:
    raise ZeroDivisionError("a user's own fault")


class Counting:
    """Gives the observations of a ramp, and fails at some of them."""

    def __init__(self, fails_at: Callable[[int], bool] = lambda number: False) -> None:
        self.fails_at = fails_at
        self.step = 0

    def __call__(self) -> dict[str, Any]:
        if self.fails_at(self.step):
            raise OSError("the camera is gone")
        return {"step": np.asarray(self.step, np.float32)}


async def test_a_merge_that_raises_is_logged_and_counted_and_the_robot_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    actions: list[Any] = []
    async with serving(Ramp()) as server, AsyncConnection(server.address) as connection:
        runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ, merge=broken, execution_horizon=5)
        await runtime.run(Counting(), actions.append, seconds=1.0)
    stats = runtime.stats
    assert stats.raised["merge"] == stats.refused["InvalidChunk"] >= 1
    assert stats.chunks >= 2  # those that begin where another one has ended
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert lines[0].startswith("merge raised ZeroDivisionError: a user's own fault (")
    assert f"{__file__}:" in lines[0]


async def test_an_on_error_that_raises_is_logged_and_counted_and_the_robot_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(broken) as server, AsyncConnection(server.address) as connection:
        runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ, on_error=broken)
        await runtime.run(Counting(), lambda action: None, seconds=0.3)
    assert runtime.stats.raised["on_error"] == runtime.stats.refused["ModelFailed"] >= 1
    assert [record.getMessage()[:16] for record in caplog.records if record.name == "inferential.client"] == [
        "on_error raised "
    ]


@pytest.mark.parametrize("name", ["starved", "on_starved"])
@pytest.mark.parametrize(("stop_action", "played"), [(None, 5.0), (np.array([7.0]), 7.0)])
def test_a_function_for_starved_steps_that_raises_leaves_the_robot_where_it_is_or_stops_it(
    name: str, stop_action: Any, played: float
) -> None:
    raised: list[str] = []
    player = Player(
        RATE_HZ,
        stop_action=stop_action,
        hold_ms=0,
        on_raised=lambda name, error: raised.append(name),
        **{name: lambda last, steps: broken()},
    )
    player.asked(1, 0.0)
    player.answered(1, np.full((2, 1), 5.0), 0.0)
    assert [float(player.play()[0]) for _ in range(5)] == [5.0, 5.0, played, played, played]
    assert player.stats.raised == {name: 3}
    assert raised == [name] * 3


def test_a_function_of_the_number_of_starved_steps_that_raises_is_as_one_that_says_nothing() -> None:
    player = Player(RATE_HZ, on_starved=lambda steps: broken(), starved="stop", hold_ms=0)
    player.asked(1, 0.0)
    player.answered(1, np.full((2, 1), 5.0), 0.0)
    assert [float(player.play()[0]) for _ in range(4)] == [5.0, 5.0, 0.0, 0.0]
    assert player.stats.raised == {"on_starved": 2}


class Unreadable:
    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no numbers in here")


@pytest.mark.parametrize("name", ["starved", "on_starved"])
@pytest.mark.parametrize("chosen", [[[1.0], [2.0, 3.0]], Unreadable(), {"arm": Unreadable()}, object(), {}, "brake"])
@pytest.mark.parametrize("options", [{}, {"action_spec": {"max_change": 1.0}}])
def test_what_is_no_array_of_a_function_for_starved_steps_reaches_the_robot_as_it_is(
    name: str, chosen: Any, options: dict[str, Any]
) -> None:
    player = Player(RATE_HZ, hold_ms=0, **{name: lambda last, steps: chosen}, **options)
    player.asked(1, 0.0)
    player.answered(1, np.full((2, 1), 5.0), 0.0)
    assert [player.play() for _ in range(5)][2:] == [chosen] * 3


@pytest.mark.parametrize("name", ["starved", "on_starved"])
def test_a_function_for_starved_steps_that_returns_none_holds_the_last_action(name: str) -> None:
    options: dict[str, Any] = {name: lambda last, steps: None}
    player = Player(RATE_HZ, hold_ms=0, **options)
    player.asked(1, 0.0)
    player.answered(1, np.full((2, 1), 5.0), 0.0)
    assert [float(player.play()[0]) for _ in range(4)] == [5.0] * 4


async def test_what_observe_raises_leaves_and_the_next_step_goes_on_as_if_this_one_had_been_missed() -> None:
    with Connection("tcp://127.0.0.1:1", client_id="arm") as connection:
        runtime = ChunkRuntime(connection.model("policy"), RATE_HZ)
        with pytest.raises(OSError, match="camera"):
            runtime.step(Counting(lambda step: True))
        assert (runtime.stats.steps, runtime.stats.skipped_steps, runtime.stats.asked) == (1, 1, 0)
        with pytest.raises(TypeError, match="image"):
            runtime.step({"image": object()})
        assert runtime.step(Counting()) is None
        assert (runtime.stats.steps, runtime.stats.skipped_steps, runtime.stats.asked) == (3, 2, 1)


async def test_with_asyncio_observe_may_be_a_coroutine_function() -> None:
    async def observe() -> dict[str, Any]:
        return {"step": np.zeros((), np.float32)}

    actions: list[Any] = []
    async with serving(Ramp()) as server, AsyncConnection(server.address) as connection:
        runtime = AsyncChunkRuntime(connection.model("policy"), RATE_HZ)
        await runtime.run(observe, actions.append, seconds=0.3)
    assert runtime.stats.chunks
    assert actions[-1] is not None


@pytest.mark.parametrize("name", ["merge", "starved", "on_starved", "on_error"])
def test_a_coroutine_function_is_refused_where_its_result_would_not_be_awaited(name: str) -> None:
    async def function(*_: Any) -> None: ...

    options: dict[str, Any] = {name: function}
    with (
        Connection("tcp://127.0.0.1:1", client_id="arm") as connection,
        pytest.raises(TypeError, match=rf"^{name}: expected a function that is no coroutine function, got"),
    ):
        ChunkRuntime(connection.model("policy"), RATE_HZ, **options)


@pytest.mark.parametrize(
    ("name", "function", "played"),
    [
        ("starved", lambda player, last, steps: player.reset(), 5.0),
        ("on_starved", lambda player, last, steps: player.reset(), 5.0),
        ("on_starved", lambda player, steps: player.reset(), 0.0),
    ],
)
def test_a_function_for_starved_steps_may_begin_a_new_episode(
    name: str, function: Callable[..., Any], played: float
) -> None:
    players: list[Player] = []
    count = function.__code__.co_argcount
    own = (lambda last, steps: function(players[0], last, steps)) if count == 3 else lambda n: function(players[0], n)
    options: dict[str, Any] = {"starved": "stop" if count == 2 else "hold", name: own}
    players.append(Player(RATE_HZ, hold_ms=0, **options))
    player = players[0]
    player.asked(1, 0.0)
    player.answered(1, np.full((1, 1), 5.0), 0.0)
    assert [player.play() for _ in range(2)] == [5.0, played]
    assert player.play() is None
    player.asked(2, 1.0)
    player.answered(2, np.full((2, 2), 3.0), 1.0)  # nothing of the former episode matters
    assert player.play().tolist() == [3.0, 3.0]
    assert not player.stats.raised


async def test_a_runtime_refuses_a_handle_of_the_other_kind_and_what_is_none() -> None:
    with Connection("tcp://127.0.0.1:1", client_id="arm") as threads:
        async with AsyncConnection("tcp://127.0.0.1:1", client_id="arm") as coroutines:
            one: Any = threads.model("policy")
            other: Any = coroutines.model("policy")
            with pytest.raises(TypeError, match=r"got one of an AsyncConnection: use AsyncChunkRuntime$"):
                ChunkRuntime(other, RATE_HZ)
            with pytest.raises(TypeError, match=r"got one of a Connection: use ChunkRuntime$"):
                AsyncChunkRuntime(one, RATE_HZ)
            wrong: Any
            for wrong in (threads, "policy", None):
                with pytest.raises(TypeError, match=r"^model: expected a handle, as connection\.model"):
                    ChunkRuntime(wrong, RATE_HZ)


def test_a_loop_of_threads_refuses_to_act_by_a_coroutine_function_as_the_robot_would_not_move() -> None:
    async def act(action: Any) -> None: ...

    with Connection("tcp://127.0.0.1:1", client_id="arm") as connection:
        runtime = ChunkRuntime(connection.model("policy"), RATE_HZ)
        for wrong in (act, None):
            with pytest.raises(TypeError, match=r"^act: expected a function"):
                runtime.run({}, wrong, seconds=0.1)  # type: ignore[arg-type]


def test_a_runtime_that_is_let_go_ends_at_once_and_so_leaves_its_handle_to_others() -> None:
    with Connection("tcp://127.0.0.1:1", client_id="arm") as connection:
        runtime = ChunkRuntime(connection.model("policy"), RATE_HZ, on_starved=broken, on_error=broken)
        runtime.step({"x": np.zeros(1)})
        seen = weakref.ref(runtime)
        del runtime
        assert seen() is None
