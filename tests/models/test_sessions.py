"""Models that keep state of their robots: sessions, episodes, order, and what becomes of state that is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.conftest import Serve, ask, settings, until

from inferential import AsyncConnection, BatchFailed, ModelFailed, Server

MEMORY = """
import os
import numpy as np

class Memory:
    def __init__(self, version=""):
        self.version = version

    def reset(self, session):
        session.state = {"steps": 0}
        with open("resets", "a") as file:
            file.write(f"{session.client_id} {session.episode}\\n")

    def close(self, session):
        with open("closed", "a") as file:
            file.write(f"{session.client_id} {session.state['steps']}\\n")

class Counts(Memory):
    def infer(self, observation, session):
        do = observation.get("do", "")
        if do == "raise":
            raise RuntimeError("no")
        if do == "exit":
            os._exit(3)
        session.state["steps"] += 1
        who = f"{session.client_id} {session.client_type}"
        return {"steps": session.state["steps"], "who": who, "pid": os.getpid(), "number": observation["state"]}

class Fussy(Counts):
    def reset(self, session):
        if session.episode and not os.path.exists("reset works"):
            raise RuntimeError("no reset")
        super().reset(session)

class Together(Memory):
    max_batch_size = 8
    def infer_batch(self, observations, sessions):
        import time
        time.sleep(0.02)
        for session in sessions:
            session.state["steps"] += 1
        if any(one.get("do") == "raise" for one in observations):
            raise RuntimeError("one is broken")
        return [{"steps": session.state["steps"], "pid": os.getpid()} for session in sessions]

def rows():
    return [{"state": np.ones(1)}]
"""


@pytest.fixture(autouse=True)
def memory(place: Path) -> None:
    (place / "memory.py").write_text(MEMORY)


def model(name: str = "Counts", **more: Any) -> dict[str, Any]:
    return {"target": f"memory:{name}", **more}


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_a_robot_has_a_session_for_each_episode(serve: Serve, place: Path, run: str) -> None:
    server = await serve(m=model(run=run))
    async with AsyncConnection(server.address, "arm", "so101") as connection:
        handle = connection.model("m", 60_000.0)
        for step in (1, 2, 3):
            result = await handle.infer(60_000, state=np.ones(1))
            assert result is not None
            assert (result["steps"], result["who"], result.session) == (step, "arm so101", "")
        await handle.reset()
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        assert (result["steps"], result.session) == (1, "")
    assert (place / "resets").read_text() == "arm 0\narm 1\n"


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_close_is_called_when_a_robot_is_gone(serve: Serve, place: Path, run: str) -> None:
    server = await serve(m=model(run=run))
    config = settings(m=model(run=run))
    config.response_tracking.disconnect_timeout_s = 0.3
    server.reconfigure(config)
    await ask(server)
    await until(lambda: (place / "closed").exists())
    assert (place / "closed").read_text() == "arm 1\n"


async def test_calls_of_its_processes_begin_within_the_turn_as_those_of_other_models(serve: Serve) -> None:
    server = await serve(m=model())
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        for _ in range(3):
            assert await handle.infer(60_000, state=np.ones(1)) is not None
    assert server.status().counters["calls_inline"] == 3


@pytest.mark.parametrize("name", ["Counts", "Together"])
@pytest.mark.parametrize("run", ["process", "thread"])
async def test_a_warm_up_is_of_no_robot(serve: Serve, place: Path, run: str, name: str) -> None:
    server = await serve(m=model(name, run=run, warm_up="memory:rows"))
    result = await ask(server)
    assert (result["steps"], result.session) == (1, "")
    assert (place / "resets").read_text().split() == ["0", "arm", "0"]  # the first of no robot


async def test_a_robot_stays_on_the_replica_with_its_state_and_its_rows_run_in_order(serve: Serve) -> None:
    server = await serve(m=model(replicas=2, every_observation=True))

    async def drive(client_id: str) -> set[int]:
        async with AsyncConnection(server.address, client_id) as connection:
            handle = connection.model("m", 60_000.0, queue="all")
            ids = [await handle.observe(state=np.full(1, number)) for number in range(20)]
            results = [await handle.get_result(60_000) for _ in ids]
            assert [int(one["number"][0]) for one in results if one is not None] == list(range(20))
            assert [int(one["steps"]) for one in results if one is not None] == list(range(1, 21))
            return {int(one["pid"]) for one in results if one is not None}

    found = await asyncio.gather(*(drive(f"arm-{number}") for number in range(4)))
    assert all(len(pids) == 1 for pids in found)
    assert len(set.union(*found)) == 2
    (status,) = server.status().models
    assert status.calls == 80
    assert status.latency
    assert {batch.model_id for batch in server.status().batches} == {"m"}
    assert {batch.replica for batch in server.status().batches} == {"0", "1"}


async def test_where_a_replica_is_killed_its_robots_go_on_in_order(serve: Serve) -> None:
    server = await serve(m=model(replicas=2, every_observation=True))
    begun, killed = asyncio.Event(), asyncio.Event()

    async def drive(client_id: str) -> None:
        async with AsyncConnection(server.address, client_id) as connection:
            handle = connection.model("m", 60_000.0, queue="all")
            for number in range(20):
                await handle.observe(state=np.full(1, number))
            sent, numbers, steps = 20, [], 0
            lost: list[str] = []
            while len(numbers) + len(lost) < sent:
                if not killed.is_set():
                    await handle.observe(state=np.full(1, sent))
                    sent += 1
                try:
                    result = await handle.get_result(60_000)
                except ModelFailed as error:
                    lost.append(str(error))
                    continue
                assert result is not None
                begun.set()
                numbers.append(int(result["number"][0]))
                steps = 1 if result.session == "restarted" else steps + 1
                assert result["steps"] == steps
            assert numbers == sorted(set(numbers))
            assert len(lost) <= 3
            assert all("not run again" in one for one in lost)

    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(drive(f"arm-{number}"))
        await begun.wait()
        for _ in range(3):
            await asyncio.sleep(0.05)
            await until(lambda: len(server.dispatcher.process_ids("m")) == 2)
            os.kill(server.dispatcher.process_ids("m")[0], signal.SIGKILL)
        killed.set()


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_no_row_of_a_failed_batch_runs_twice(serve: Serve, run: str) -> None:
    server = await serve(m=model("Together", run=run))
    async with AsyncConnection(server.address, "first") as first, AsyncConnection(server.address, "second") as second:
        handles = [first.model("m", 60_000.0), second.model("m", 5000.0)]
        for handle in handles:
            assert await handle.infer(60_000, state=np.ones(1)) is not None
        blocker = asyncio.create_task(ask(server, "third"))  # so that the next two wait, and run together
        await asyncio.sleep(0.005)
        failing = [handle.infer(60_000, state=np.ones(1), do="raise") for handle in handles]
        outcomes = await asyncio.gather(*failing, return_exceptions=True)
        await asyncio.gather(blocker, return_exceptions=True)
        assert all(isinstance(one, ModelFailed) for one in outcomes)
        if all(isinstance(one, BatchFailed) for one in outcomes):
            assert "none is run again" in str(outcomes[0])
        for handle in handles:
            result = await handle.infer(60_000, state=np.ones(1))
            assert result is not None
            assert result["steps"] == 3


async def test_a_robot_that_breaks_its_calls_goes_alone_and_the_others_are_served(serve: Serve) -> None:
    server = await serve(m=model("Together"))
    stop, good = asyncio.Event(), 0

    async def drive(client_id: str, **more: Any) -> None:
        nonlocal good
        async with AsyncConnection(server.address, client_id) as connection:
            handle = connection.model("m", 60_000.0)
            failures = 0
            while not stop.is_set():
                try:
                    assert await handle.infer(60_000, state=np.ones(1), **more) is not None
                except ModelFailed:
                    failures += 1
                else:
                    good += 1
            # Each but the one that is broken fails with that one once, and once more if it was in a call meanwhile.
            assert more or failures <= 2

    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(drive(f"arm-{number}"))
        tasks.create_task(drive("broken", do="raise"))
        await until(lambda: good > 30)
        stop.set()


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_an_episode_whose_reset_has_failed_is_begun_again(serve: Serve, place: Path, run: str) -> None:
    server = await serve(m=model("Fussy", run=run))
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        assert await handle.infer(60_000, state=np.ones(1)) is not None
        await handle.reset()
        for _ in range(2):
            with pytest.raises(ModelFailed, match="no reset"):
                await handle.infer(60_000, state=np.ones(1))
        (place / "reset works").touch()
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        assert (result["steps"], result.session) == (1, "")


async def test_a_robot_gets_to_know_that_its_state_was_lost(serve: Serve, place: Path) -> None:
    server = await serve(m=model())
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        os.kill(int(result["pid"]), signal.SIGKILL)
        await until(lambda: server.status().models[0].state != "ready")
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        assert (result["steps"], result.session) == (1, "restarted")
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        assert (result["steps"], result.session) == (2, "")
        server.reconfigure(settings(m=model(args={"version": "2"})))
        await until(lambda: list(server.dispatcher.conditions()) == ["m#2"])
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        assert (result["steps"], result.session) == (1, "restarted")
    assert (place / "resets").read_text() == "arm 0\n" * 3


def has_ended(pid: int) -> bool:
    """Whether a process has ended; it is still there until its parent asks how."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("spare_ends_too", [False, True], ids=["the spare waits", "the spare has ended too"])
async def test_a_spare_process_that_has_imported_the_model_follows_one_that_ends(
    serve: Serve, place: Path, spare_ends_too: bool
) -> None:
    (place / "noted.py").write_text(
        "import os\nfrom memory import Counts\n"
        "with open('imported', 'a') as file:\n    file.write(f'{os.getpid()}\\n')\n"
    )
    server = await serve(m={"target": "noted:Counts", "spare": True})

    def imported() -> list[int]:
        return [int(line) for line in (place / "imported").read_text().splitlines()]

    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        first = await handle.infer(60_000, state=np.ones(1))
        await until(lambda: len(imported()) == 2)
        assert first is not None
        own, spare = imported()
        assert own == first["pid"]
        if spare_ends_too:
            os.kill(spare, signal.SIGKILL)
            await until(lambda: has_ended(spare))
        os.kill(own, signal.SIGKILL)
        ended = {own, spare} if spare_ends_too else {own}
        await until(lambda: set(server.dispatcher.process_ids("m")) - ended)  # what comes before gets ModelFailed
        second = await handle.infer(60_000, state=np.ones(1))
        assert second is not None
        assert (second["steps"], second.session) == (1, "restarted")
        assert (second["pid"] == spare) is not spare_ends_too
        await until(lambda: len(imported()) == (4 if spare_ends_too else 3))  # the next one waits


async def test_a_robot_keeps_its_version_and_state_until_its_episode_ends(serve: Serve) -> None:
    def versions(**more: Any) -> dict[str, Any]:
        found = {name: model(args={"version": name}) for name in "ab"}
        return {"versions": found, "active": "a", **more}

    server = await serve(m=versions(rollout={"b": {"clients": ["other"]}}))
    await until(lambda: all(one.state == "ready" for one in server.status().models[0].versions))
    assert (await ask(server, "other")).model_version == "b"  # it is new, and has nothing to lose
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)

        async def step() -> tuple[str, int, str]:
            result = await handle.infer(60_000, state=np.ones(1))
            assert result is not None
            return result.model_version, int(result["steps"]), result.session

        assert await step() == ("a", 1, "")
        server.reconfigure(settings(m=versions(rollout={"b": {"clients": ["other", "arm"]}})))
        assert await step() == ("a", 2, "")
        server.reconfigure(settings(m=versions() | {"active": "b"}))
        assert await step() == ("a", 3, "")
        await handle.reset()
        assert await step() == ("b", 1, "")
        await until(lambda: [one.version for one in server.status().models[0].versions if one.pool] == ["b"])


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_a_robot_that_comes_back_to_a_version_begins_anew_there(serve: Serve, run: str) -> None:
    def versions(*clients: str) -> dict[str, Any]:
        found = {name: model(args={"version": name}) for name in "ab"}
        return {"versions": found, "active": "a", "rollout": {"b": {"clients": ["", *clients]}}}

    run_of = {"run": run}
    server = await serve(m=run_of | versions())
    await until(lambda: {one.state for one in server.status().models[0].versions} == {"ready"})
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        seen = []
        for clients in ((), ("arm",), ()):
            server.reconfigure(settings(m=run_of | versions(*clients)))
            if seen:
                await handle.reset()
            for _ in range(2):
                result = await handle.infer(60_000, state=np.ones(1))
                assert result is not None
                seen.append((result.model_version, int(result["steps"])))
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("a", 1), ("a", 2)]


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_a_model_with_memory_may_be_in_the_shadow(serve: Serve, run: str) -> None:
    versions = {name: model(args={"version": name}) for name in "ab"}
    server = await serve(m={"run": run, "versions": versions, "active": "a", "shadow": "b"})
    await until(lambda: {one.state for one in server.status().models[0].versions} == {"ready"})
    assert (await ask(server))["steps"] == 1
    (shadow,) = [one for one in server.status().models[0].versions if one.role == "shadow"]
    await until(lambda: any(one.compared for one in server.status().models[0].versions))
    assert shadow.errors == 0


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_what_a_version_saw_in_the_shadow_is_no_state_of_a_robot_that_it_answers(
    serve: Serve, place: Path, run: str
) -> None:
    def versions(**more: Any) -> dict[str, Any]:
        found = {name: model(args={"version": name}) for name in "ab"}
        return {"run": run, "versions": found, "active": "a", **more}

    server = await serve(m=versions(shadow="b"))
    await until(lambda: {one.state for one in server.status().models[0].versions} == {"ready"})
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        await handle.infer(60_000, state=np.ones(1))
        await until(lambda: any(one.compared for one in server.status().models[0].versions))
        server.reconfigure(settings(m=versions(active="b", swap="in_place")))  # within its episode
        result = None
        while result is None or result.model_version != "b":
            result = await handle.infer(60_000, state=np.ones(1))
        assert (result["steps"], result.session) == (1, "restarted")


async def test_a_robot_gets_to_know_of_lost_state_whatever_was_asked_in_the_shadow(serve: Serve) -> None:
    versions = {name: model(args={"version": name}) for name in "ab"}
    server = await serve(m={"versions": versions, "active": "a", "shadow": "b"})
    await until(lambda: {one.state for one in server.status().models[0].versions} == {"ready"})
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        await until(lambda: any(one.compared for one in server.status().models[0].versions))
        os.kill(int(result["pid"]), signal.SIGKILL)
        await until(lambda: server.status().models[0].state != "ready")
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        assert (result["steps"], result.session) == (1, "restarted")


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_a_robot_that_was_silent_within_its_episode_gets_to_know_that_its_state_was_let_go(
    serve: Serve, place: Path, run: str
) -> None:
    server = await serve(m=model(run=run))
    config = settings(m=model(run=run))
    config.response_tracking.disconnect_timeout_s = 0.1
    server.reconfigure(config)
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        assert await handle.infer(60_000, state=np.ones(1)) is not None
        await until(lambda: (place / "closed").exists())
        result = await handle.infer(60_000, state=np.ones(1))
        assert result is not None
        assert (result["steps"], result.session) == (1, "restarted")


async def test_an_observation_under_which_its_process_died_is_not_run_again(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server: Server = await serve(m=model())
    async with AsyncConnection(server.address, "arm") as connection:
        handle = connection.model("m", 60_000.0)
        with pytest.raises(ModelFailed, match="not run again"):
            await handle.infer(60_000, state=np.ones(1), do="exit")
        assert "model m: its process exited with status 3" in caplog.text
        assert await handle.infer(60_000, state=np.ones(1)) is not None


async def test_a_single_method_without_sessions_is_not_called_beside_a_batch_with_them(
    serve: Serve, place: Path
) -> None:
    source = MEMORY + "\n    def infer(self, observation):\n        return self.infer_batch([observation], [])[0]\n"
    (place / "memory.py").write_text(source)
    server = await serve(m=model("Together"))
    assert (await ask(server))["steps"] == 1
