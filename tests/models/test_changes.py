"""Models that are changed at bad moments: while they load, hang, fail, or have requests waiting."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.conftest import Serve, ask, policy, settings, two, until

from inferential import AsyncConnection, ModelFailed, ModelFailing, Server, UnknownModel
from inferential.cli.errors import CliError

OBSERVATION = {"state": np.ones(2, np.float32)}


def states(server: Server) -> dict[str, str]:
    return {one.pool: one.state for one in server.status().models[0].versions if one.pool}


async def asked(server: Server, **about: Any) -> asyncio.Task[Any]:
    """Returns a request that waits."""
    before = server.status()
    had = before.waiting + before.in_flight
    task = asyncio.create_task(ask(server, **about))
    await until(lambda: server.status().waiting + server.status().in_flight > had or task.done())
    return task


@pytest.mark.parametrize("swap", ["beside", "in_place"])
async def test_requests_for_a_model_that_loads_are_answered_by_what_takes_its_place(serve: Serve, swap: str) -> None:
    server = await serve(m={**policy(name="old"), "swap": swap})
    # With another one that is new: both begin to load while the reload is under way.
    server.reconfigure(settings(m={**policy(name="a", go="never"), "swap": swap}, n=policy(name="n")))
    await until(lambda: "loading" in states(server).values())
    server.reconfigure(settings(m={**policy(name="b", go="never"), "swap": swap}, n=policy(name="n")))
    if swap == "in_place":
        waiting = await asked(server)
    server.reconfigure(settings(m={**policy(name="c"), "swap": swap}, n=policy(name="n")))
    if swap == "in_place":
        assert (await waiting)["name"] == "c"
    await until(lambda: len(states(server)) == 1)
    assert (await ask(server))["name"] == "c"


async def test_a_model_that_never_loaded_is_replaced_with_what_waits_for_it(serve: Serve, place: Path) -> None:
    config = settings(m=policy(name="stuck", go="never"))
    config.server.ready_wait_s = 0.0
    server = await serve(config=config)
    waiting = [await asked(server, client_id=f"arm-{number}") for number in range(3)]
    server.reconfigure(settings(m=policy(name="mended")))
    assert [(await one)["name"] for one in waiting] == ["mended"] * 3
    await until(lambda: list(states(server)) == ["m#2"])


async def test_requests_for_a_model_that_is_removed_end(serve: Serve) -> None:
    config = settings(m=policy(name="stuck", go="never"), n=policy(name="n"))
    config.server.ready_wait_s = 0.0
    server = await serve(config=config)
    waiting = await asked(server)
    server.reconfigure(settings(n=policy(name="n")))
    with pytest.raises(UnknownModel, match="not served any more"):
        await waiting
    await until(lambda: list(server.dispatcher.conditions()) == ["n"])


async def test_what_a_removed_model_has_begun_is_answered(serve: Serve) -> None:
    server = await serve(m=policy(name="m", slow_s=0.1), n=policy(name="n"))
    requests = [await asked(server, client_id=f"arm-{number}") for number in range(3)]
    server.reconfigure(settings(n=policy(name="n")))
    assert [(await one)["name"] for one in requests] == ["m"] * 3


async def test_a_new_version_that_fails_in_place_says_why_and_the_next_one_answers(serve: Serve) -> None:
    server = await serve(m={**policy(name="old"), "swap": "in_place"})
    server.reconfigure(settings(m={**policy(name="new", nonsense=1), "swap": "in_place"}))
    await until(lambda: "failing" in states(server).values())
    with pytest.raises((ModelFailed, ModelFailing), match="nonsense"):
        await ask(server)
    server.reconfigure(settings(m={**policy(name="old"), "swap": "in_place"}))
    assert (await ask(server))["name"] == "old"


async def test_a_new_version_that_fails_beside_the_old_leaves_that_one_answering(serve: Serve) -> None:
    server = await serve(m=policy(name="old"))
    server.reconfigure(settings(m=policy(name="new", nonsense=1)))
    await until(lambda: "failing" in states(server).values())
    assert (await ask(server))["name"] == "old"
    (found,) = [one for one in server.status().models[0].versions if one.state == "failing"]
    assert found.role == "coming"
    assert "nonsense" in found.why


async def test_many_reloads_in_a_row_end_in_the_last(serve: Serve) -> None:
    server = await serve(m=policy(name="0"))
    done, names = asyncio.Event(), []

    async def drive(client_id: str) -> None:
        async with AsyncConnection(server.address, client_id) as connection:
            model = connection.model("m", queue="all")
            while not done.is_set():
                result = await model.infer(60_000, **OBSERVATION)
                assert result is not None
                names.append(result["name"])

    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(drive(f"arm-{number}"))
        for number in range(1, 6):
            server.reconfigure(settings(m=policy(name=str(number))))
            server.reconfigure(settings(m=policy(name=f"{number}, not for long")))
            server.reconfigure(settings(m=policy(name=str(number))))
            await asyncio.sleep(0.05)
        await until(lambda: names[-1:] == ["5"] and len(states(server)) == 1)
        done.set()


@pytest.mark.parametrize("swap", ["beside", "in_place"])
async def test_a_model_that_hangs_is_replaced_and_what_it_had_runs_again(
    serve: Serve, place: Path, swap: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(m={**policy(name="old", hangs="hang"), "swap": swap})
    assert (await ask(server))["name"] == "old"
    for module in ("models.routes", "models.manager", "models.conditions", "replica.lifecycle"):
        monkeypatch.setattr(sys.modules[f"inferential.{module}"], "HUNG_AFTER_S", 0.2)
    (place / "hang").touch()
    hanging = await asked(server)
    await until(lambda: states(server) == {"m": "hung"})
    server.reconfigure(settings(m={**policy(name="new"), "swap": swap}))
    await until(lambda: "m#2" in states(server))
    assert (await ask(server, "other"))["name"] == "new"
    assert (await hanging)["name"] == "new"
    assert caplog.text.count("model m is hung") == 1


async def test_a_version_whose_call_does_not_end_is_taken_back_and_its_requests_answered(
    serve: Serve, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.models.guard.STUCK_S", 0.1)
    monkeypatch.setattr("inferential.models.routes.ABORTED_DRAINS_S", 0.1)
    (place / "hang").touch()
    bad = two(rollout={"b": {"clients": ["arm-1"]}}, abort={"min_requests": 20})
    bad["versions"]["b"] = policy(name="b", hangs="hang")
    server = await serve(m=bad)
    await until(lambda: set(states(server).values()) == {"ready"})
    assert (await ask(server, "arm-0")).model_version == "a"
    assert (await ask(server, "arm-1")).model_version == "a"
    await until(lambda: "has not ended" in why_of(server, "b"))  # its request may have been handed over before that


def why_of(server: Server, version: str) -> str:
    return next((one.why for one in server.status().models[0].versions if one.version == version), "")


async def test_a_change_that_cannot_be_made_changes_nothing(serve: Serve) -> None:
    server = await serve(m=policy(name="m"))
    for wrong in ({"target": "ray:elsewhere"}, {"target": "policies:Policy", "run": "thread", "replicas": 2}):
        config = settings(m=policy(name="m"), n=wrong)
        config.scheduling.strategy = "round_robin"
        with pytest.raises((ValueError, CliError), match=r"elsewhere|run: thread"):
            server.reconfigure(config)
        assert server.status().strategy != "round_robin"
        assert type(server.scheduler).__name__ != "RoundRobinScheduler"
        assert [model.model_id for model in server.status().models] == ["m"]
    assert (await ask(server))["name"] == "m"


@pytest.mark.parametrize(
    "known",
    [
        {"m": {**two(), "versions": {"a#1": policy()}, "active": "a#1"}},
        {"m": two(shadow="a")},
        {"m": two(rollout={"c": {"share": 0.5}})},
        {"m": two(rollout={"b": {"share": 0.5}}) | {"active": "c"}},
        {"m": {**policy(), "fallback": "m"}},
        {"m": {**policy(), "fallback": "n"}, "n": {"max_inflight": 1}},
        {"m": {**two(), "versions": {"a\n": policy()}, "active": "a\n"}},
        {"m": {**two(), "versions": {"a": policy() | {"warm_up": "rows"}}}},
        {"m": two(), "m@a": policy()},
    ],
    ids=[
        "name",
        "active in the shadow",
        "unknown on trial",
        "unknown active",
        "its own fallback",
        "a fallback that is not served",
        "a name of two lines",
        "warm-up",
        "a model with the name of a version of another",
    ],
)
def test_versions_that_cannot_be_are_refused(known: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|answers already|should match"):
        settings(**known)


@pytest.mark.parametrize(("share", "fits"), [(0.05, True), (0.0501, False)])
def test_shares_of_many_versions_are_at_most_all_robots(share: float, fits: bool) -> None:
    names = [str(number) for number in range(20)]  # 20 times 0.05 is more than 1 in floating point
    versions = {name: policy() for name in ["active", *names]}
    rollout = {name: {"share": share} for name in names}
    with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="at most 1"):
        settings(m={"versions": versions, "active": "active", "rollout": rollout})


async def test_a_promoted_version_takes_robots_over_at_the_ends_of_their_chunks(serve: Serve) -> None:
    server = await serve(m=two(rollout={"b": {"clients": ["arm-1"]}}))
    await until(lambda: set(states(server).values()) == {"ready"})
    async with AsyncConnection(server.address, "arm-0") as connection:
        model = connection.model("m", 60_000.0)

        async def version(steps_remaining: int) -> str:
            result = await model.infer(60_000, steps_remaining=steps_remaining, **OBSERVATION)
            assert result is not None
            return result.model_version

        assert await version(0) == "a"
        server.reconfigure(settings(m={**two(), "active": "b"}))
        await until(lambda: server.status().models[0].versions[0].version == "b")
        assert [await version(3), await version(2), await version(0), await version(3)] == ["a", "a", "b", "b"]
        await until(lambda: list(states(server)) == ["m@b"])


async def test_a_version_that_changes_under_its_name_differs_from_what_it_was_by_its_version(serve: Serve) -> None:
    server = await serve(m=two())
    assert (await ask(server)).model_version == "a"
    changed = two()
    changed["versions"]["a"] = policy(name="another a")
    server.reconfigure(settings(m=changed))
    await until(lambda: list(states(server)) == ["m@a#2"])
    result = await ask(server)
    assert (result["name"], result.model_version) == ("another a", "a#2")


async def test_a_robot_that_was_wrong_and_mended_is_heard_again(
    serve: Serve, pass_time: Callable[[float], None]
) -> None:
    server = await serve(m={**policy(name="m"), "breaker": {"failures": 3, "pause_ms": 20_000}})
    async with AsyncConnection(server.address, "arm") as connection:
        model = connection.model("m", 60_000.0)
        for _ in range(3):
            with pytest.raises(ModelFailed, match="state"):
                await model.infer(60_000, joints=np.ones(2))
        with pytest.raises(ModelFailing):
            await model.infer(60_000, joints=np.ones(2))
        async with asyncio.timeout(300):
            while True:  # what is refused is what the model is probed with next
                try:
                    result = await model.infer(60_000, **OBSERVATION)
                except ModelFailing:
                    pass_time(10.0)
                    await asyncio.sleep(0.001)
                else:
                    break
        assert result is not None


async def test_what_a_failing_model_refuses_has_arrived_once(serve: Serve) -> None:
    server = await serve(m={**policy(name="m"), "breaker": {"failures": 1, "pause_ms": 60_000}})
    async with AsyncConnection(server.address, "arm") as connection:
        model = connection.model("m", 60_000.0)
        for expected in (ModelFailed, ModelFailing, ModelFailing):
            with pytest.raises(expected):
                await model.infer(60_000, joints=np.ones(2))
    arrived = server.metrics.get_stats("payload_size_bytes")
    assert arrived is not None
    assert arrived.count == 3


async def test_a_server_is_ready_as_long_as_any_of_its_models_answers(serve: Serve) -> None:
    breaker = {"failures": 1, "pause_ms": 60_000}
    server = await serve(m={**policy(name="m"), "breaker": breaker}, n={**policy(name="n"), "breaker": breaker})
    async with AsyncConnection(server.address, "arm") as connection:
        for number, model_id in enumerate("mn"):
            with pytest.raises(ModelFailed):
                await connection.model(model_id, 5000.0).infer(60_000, joints=np.ones(2))
            failing = [f"model {name!r}: it is failing: " for name in "mn"[: number + 1]]
            for problems, expected in (
                (server.impairments(), failing),
                (server.readiness(), failing if number else []),
            ):
                assert len(problems) == len(expected)
                assert all(one.startswith(begins) for one, begins in zip(problems, expected, strict=True)), problems


async def test_fallbacks_are_followed_as_far_as_one_answers_and_round_a_circle_once(serve: Serve, place: Path) -> None:
    def falling(name: str, fallback: str) -> dict[str, Any]:
        return {**policy(name=name, fails=f"{name} fails"), "breaker": {"failures": 1}, "fallback": fallback}

    server = await serve(m=falling("m", "n"), n=falling("n", "o"), o=falling("o", "m"))
    assert (await ask(server)).fallback == ""
    for number, name in enumerate("mno"):
        (place / f"{name} fails").touch()
        with pytest.raises(ModelFailed):
            await ask(server, model_id=name)
        if number < 2:
            assert (await ask(server)).fallback == "no"[number]
    with pytest.raises(ModelFailing):
        await ask(server)


@pytest.mark.parametrize("limited", ["m", "n"])
@pytest.mark.parametrize("on_bad", ["fail", "clip"])
async def test_a_fallbacks_actions_are_within_its_limits_and_those_of_the_model_that_was_asked(
    serve: Serve, place: Path, limited: str, on_bad: str
) -> None:
    known = {
        "m": {**policy(fails="m fails"), "breaker": {"failures": 1, "pause_ms": 60_000}, "fallback": "n"},
        "n": policy(scale=9.0),
    }
    known[limited] = {**known[limited], "actions": {"high": 2.0, "on_bad": on_bad}}
    server = await serve(**known)
    (place / "m fails").touch()
    with pytest.raises(ModelFailed, match="m fails is there"):
        await ask(server)
    if on_bad == "clip":
        result = await ask(server)
        assert (result.fallback, result["actions"].tolist()) == ("n", [2.0, 2.0])
    else:
        with pytest.raises(ModelFailed, match="expected at most high 2, got 9"):
            await ask(server)
