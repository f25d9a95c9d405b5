"""Versions on trial, in the shadow, taken back, and models that change while robots are served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.conftest import Serve, ask, policy, settings, two, until

from inferential import AsyncConnection, ModelFailed, ModelFailing, Server, UnknownModel


async def versions(server: Server, robots: int = 8) -> dict[str, str]:
    """Which version answers each robot, all of which are connected."""
    connections = [AsyncConnection(server.address, f"arm-{number}") for number in range(robots)]
    found = {}
    for _ in range(2):  # the share is of those that are there
        for number, connection in enumerate(connections):
            result = await connection.model("m", 60_000.0).infer(60_000, state=np.ones(2, np.float32))
            assert result is not None
            assert result["name"] == result.model_version
            found[f"arm-{number}"] = result.model_version
    for connection in connections:
        connection.close()
    return found


async def test_a_share_of_the_robots_tries_a_version_and_stays_with_it(serve: Serve) -> None:
    server = await serve(m=two(rollout={"b": {"share": 0.25}}))
    await until(lambda: all(model.state == "ready" for model in server.status().models))
    first = await versions(server)
    assert sorted(first.values()) == ["a"] * 6 + ["b"] * 2
    assert await versions(server) == first
    server.reconfigure(settings(m=two(rollout={"b": {"share": 0.5}})))
    second = await versions(server)
    assert sorted(second.values()) == ["a"] * 4 + ["b"] * 4
    assert {one for one, version in first.items() if version == "b"} <= {
        one for one, version in second.items() if version == "b"
    }


async def test_versions_and_their_shares_are_in_the_status(serve: Serve) -> None:
    server = await serve(m=two(rollout={"b": {"share": 0.25}}))
    await until(lambda: all(one.state == "ready" for one in server.status().models[0].versions))
    await versions(server)
    (status,) = server.status().models
    assert [(one.version, one.role, one.share, one.robots) for one in status.versions] == [
        ("a", "active", None, 6),
        ("b", "rollout", 0.25, 2),
    ]
    assert status.calls == 16
    assert sum(one.requests or 0 for one in status.versions) == 16


async def test_what_is_not_counted_by_version_is_unknown_and_not_zero(serve: Serve) -> None:
    server = await serve(m=two())
    await until(lambda: server.status().models[0].versions[0].state == "ready")
    await ask(server, "arm")
    (status,) = server.status().models
    assert status.calls == 1
    assert [(one.requests, one.errors, one.deadline_misses) for one in status.versions] == [(None,) * 3] * 2


async def test_robots_are_named_for_a_trial_by_id_and_by_type(serve: Serve) -> None:
    server = await serve(m=two(rollout={"b": {"clients": ["arm-1"], "client_types": ["so101"]}}))
    assert (await ask(server, "arm-0")).model_version == "a"
    assert (await ask(server, "arm-1")).model_version == "b"
    assert (await ask(server, "arm-2", client_type="so101")).model_version == "b"


@pytest.mark.parametrize(("fault", "why"), [({"fails": "models"}, "is there"), ({"dies": True}, "its process exited")])
async def test_a_version_that_fails_is_taken_back_and_no_request_is_lost(
    serve: Serve, place: Path, fault: dict[str, Any], why: str
) -> None:
    model = two(rollout={"b": {"clients": ["arm"]}}, abort={"min_requests": 20})
    server = await serve(m=model)
    (place / "models").touch()
    bad = {**model, "versions": {**model["versions"], "b": policy(name="b", **fault)}}
    server.reconfigure(settings(m=bad))
    await until(lambda: any((one.pool, one.role) == ("m@b#2", "rollout") for one in server.status().models[0].versions))
    answers = [await ask(server) for _ in range(30)]
    assert {answer.model_version for answer in answers[-5:]} == {"a"}
    await until(lambda: any(one.why.startswith("taken back") for one in server.status().models[0].versions))
    (found,) = [one for one in server.status().models[0].versions if one.version == "b"]
    assert why in found.why
    server.reconfigure(settings(m=bad))
    assert (await ask(server)).model_version == "a"
    server.reconfigure(settings(m=model))
    await until(lambda: any(one.version == "b" and one.state == "ready" for one in server.status().models[0].versions))
    assert (await ask(server)).model_version == "b#3"  # not the one that was taken back


def ask_ok(server: Server) -> bool:
    return any(one.version == "b" and one.state == "ready" for one in server.status().models[0].versions)


async def test_the_shadow_is_compared_and_never_sent(serve: Serve) -> None:
    server = await serve(m=two(shadow="b"))
    await until(lambda: ask_ok(server))
    async with AsyncConnection(server.address, "arm") as connection:
        model = connection.model("m", 60_000.0)
        for _ in range(20):
            result = await model.infer(60_000, state=np.ones(2, np.float32))
            assert result is not None
            assert result.model_version == "a"
            await asyncio.sleep(0.02)
    (shadow,) = [one for one in server.status().models[0].versions if one.role == "shadow"]
    assert shadow.compared > 0
    assert shadow.difference_mean == [1.0, 1.0]
    assert shadow.difference_max == [1.0, 1.0]


async def test_no_robot_waits_for_the_shadow_and_it_has_one_call_at_a_time(serve: Serve, place: Path) -> None:
    (place / "hang").touch()
    hanging = two(shadow="b")
    hanging["versions"]["b"] = policy(name="b", hangs="hang")
    server = await serve(m=hanging)
    await until(lambda: ask_ok(server))

    async def drive(client_id: str) -> None:
        async with AsyncConnection(server.address, client_id) as connection:
            model = connection.model("m", 60_000.0)
            for _ in range(10):
                result = await model.infer(60_000, state=np.ones(2, np.float32))
                assert result is not None
                assert result.model_version == "a"

    await asyncio.gather(*(drive(f"arm-{number}") for number in range(4)))
    (shadow,) = [one for one in server.status().models[0].versions if one.role == "shadow"]
    assert (shadow.compared, shadow.waiting) == (0, 0)
    (place / "hang").unlink()
    await until(lambda: any(one.compared for one in server.status().models[0].versions))
    await drive("arm")
    (shadow,) = [one for one in server.status().models[0].versions if one.role == "shadow"]
    assert shadow.compared == 1  # after a slow call it is not asked for long


@pytest.mark.parametrize("swap", ["beside", "in_place"])
async def test_a_changed_model_takes_over_and_no_request_is_lost(serve: Serve, swap: str) -> None:
    server = await serve(m={**policy(name="old"), "swap": swap})
    names: list[str] = []
    done = asyncio.Event()

    async def drive(client_id: str) -> None:
        async with AsyncConnection(server.address, client_id) as connection:
            model = connection.model("m")  # no budget: it waits
            while not done.is_set():
                result = await model.infer(60_000, state=np.ones(2, np.float32))
                assert result is not None
                names.append(result["name"])

    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(drive(f"arm-{number}"))
        await until(lambda: len(names) > 10)
        server.reconfigure(settings(m={**policy(name="new"), "swap": swap}))
        await until(lambda: "new" in names)
        await until(lambda: len(server.dispatcher.conditions()) == 1)
        done.set()
    assert names[0] == "old"
    assert names[-1] == "new"
    assert server.status().models[0].answers == len(names)


async def test_models_come_and_go_with_the_configuration(serve: Serve) -> None:
    server = await serve(m=policy(name="m"))
    server.reconfigure(settings(m=policy(name="m"), n=policy(name="n")))
    assert (await ask(server, model_id="n"))["name"] == "n"
    server.reconfigure(settings(n=policy(name="n")))
    with pytest.raises(UnknownModel):
        await ask(server)
    await until(lambda: list(server.dispatcher.conditions()) == ["n"])
    assert [model.model_id for model in server.status().models] == ["n"]


async def test_changed_code_is_read_anew(serve: Serve, place: Path) -> None:
    server = await serve(m=policy(name="m"))
    file = place / "policies.py"
    file.write_text(file.read_text().replace('"name": self.name', '"name": self.name + " of the new code"'))
    server.reconfigure(settings(m=policy(name="m")))
    await until(lambda: list(server.dispatcher.conditions()) == ["m#2"])
    result = await ask(server)
    assert result["name"] == "m of the new code"
    assert result.model_version == "#2"


async def test_a_new_version_becomes_active_when_it_is_ready(serve: Serve, place: Path) -> None:
    slow = two()
    slow["versions"]["b"] = policy(name="b", go="go")
    server = await serve(m=slow)
    server.reconfigure(settings(m={**slow, "active": "b"}))
    assert (await ask(server)).model_version == "a"
    (place / "go").touch()
    await until(lambda: ask_ok(server))
    assert (await ask(server)).model_version == "b"
    await until(lambda: list(server.dispatcher.conditions()) == ["m@b"])


async def test_a_model_that_fails_is_not_asked_until_a_probe_is_answered(
    serve: Serve, place: Path, pass_time: Callable[[float], None]
) -> None:
    server = await serve(m={**policy(name="m", fails="broken"), "breaker": {"failures": 5, "pause_ms": 20_000}})
    (place / "broken").touch()
    for _ in range(5):
        with pytest.raises(ModelFailed):
            await ask(server)
    with pytest.raises(ModelFailing, match="5 requests failed in a row"):
        await ask(server)
    failing = server.status().models[0]
    assert failing.state == "failing"
    assert failing.since is not None
    (place / "broken").unlink()
    pass_time(25.0)
    await until(lambda: server.status().models[0].state == "ready")
    ready = server.status().models[0]
    for since in (ready.since, ready.versions[0].since):
        assert since is not None
        # From when it answered again: of the pause all clocks but this one know. Both are in tenths of a second.
        assert since >= failing.since
    assert (await ask(server))["name"] == "m"


async def test_one_robot_that_fails_ends_nothing_for_the_others(serve: Serve, place: Path) -> None:
    server = await serve(m={**policy(name="m", fails="broken"), "breaker": {"failures": 3}})
    assert (await ask(server, "good")) is not None
    (place / "broken").touch()
    for _ in range(6):
        with pytest.raises(ModelFailed):
            await ask(server, "bad")


async def test_another_model_answers_meanwhile_and_the_result_says_so(serve: Serve, place: Path) -> None:
    server = await serve(
        m={**policy(name="m", fails="broken"), "breaker": {"failures": 3}, "fallback": "n"}, n=policy(name="n")
    )
    assert (await ask(server)).fallback == ""
    (place / "broken").touch()
    for _ in range(3):
        with pytest.raises(ModelFailed):
            await ask(server)
    result = await ask(server)
    assert (result["name"], result.fallback, result["model_id"]) == ("n", "n", "m")


async def test_what_a_version_on_trial_does_not_answer_in_time_the_active_one_does_and_the_late_answer_is_dropped(
    serve: Serve, place: Path
) -> None:
    model = two(rollout={"b": {"clients": ["arm"]}})
    model["versions"]["b"] = policy(name="b", scale=2.0, hangs="hang")
    server = await serve(m=model)
    await until(lambda: ask_ok(server))
    dropped: list[float] = []
    server.on_metric(lambda name, value, labels: dropped.append(value) if name == "results_dropped" else None)
    await ask(server, "other")
    (place / "hang").touch()
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 100.0)
        results = [await handle.infer(60_000, state=np.ones(2, np.float32)) for _ in range(2)]
        assert [one.model_version for one in results if one is not None] == ["a", "a"]
        assert not dropped
        (place / "hang").unlink()
        await until(lambda: dropped)
        await handle.reset()
        result = await handle.infer(60_000, state=np.ones(2, np.float32))
        assert result is not None
        assert result.model_version == "b"
    assert dropped == [1.0]


async def test_the_active_version_sees_what_the_robot_sent_whatever_another_has_made_of_it(
    serve: Serve, place: Path
) -> None:
    file = place / "policies.py"
    file.write_text(
        file.read_text()
        + "\nclass Spoils:\n    def infer(self, row):\n        row['state'] *= 0\n        raise RuntimeError('no')\n"
    )
    model = two(rollout={"b": {"clients": ["arm"]}}, run="thread")
    model["versions"]["b"] = {"target": "policies:Spoils"}
    server = await serve(m=model)
    await until(lambda: ask_ok(server))
    for state in (np.ones(2, np.float32), np.ones(100_000, np.float32)):
        async with AsyncConnection(server.address, "arm") as connection:
            result = await connection.model("m", 60_000.0).infer(60_000, state=state)
            assert result is not None
            assert result.model_version == "a"
            assert result["actions"].min() == 1.0
