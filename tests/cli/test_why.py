"""`inferential why`: staged causes of lateness, each before a real server, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, Connection, InferenceError, LocalDispatcher, Server
from inferential.cli.app import run
from inferential.cli.errors import CliError
from inferential.config import InferentialConfig
from inferential.config.services import HttpConfig
from inferential.web import HttpServer

Drive = Callable[[int], Awaitable[None]]
Again = Callable[[Drive], Awaitable[None]]
"""Has a robot driven for so many actions, once or in parts."""
Stage = Callable[[Server, Again], Awaitable[None]]
STATE = np.zeros(3, np.float32)
BUDGET_MS = 30.0
ACTIONS = 12


def fast(observation: dict[str, Any]) -> float:
    return 1.0


def slow(observation: dict[str, Any]) -> float:
    time.sleep(0.06)
    return 1.0


def busy(observation: dict[str, Any]) -> float:
    time.sleep(0.012)
    return 1.0


class Batches:
    """Takes as long for each row of a batch."""

    max_batch_size = 8

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[float]:
        time.sleep(0.008 * len(observations))
        return [1.0] * len(observations)


@asynccontextmanager
async def serving(model: Any, gone_after_s: float = 10.0) -> AsyncIterator[tuple[Server, HttpServer]]:
    tracking = {"disconnect_timeout_s": gone_after_s}
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}, "response_tracking": tracking})
    async with (
        Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"m": model})) as server,
        HttpServer(server, HttpConfig(port=0)) as page,
    ):
        yield server, page


@asynccontextmanager
async def delayed(address: str, delay_s: float) -> AsyncIterator[str]:
    """Yields an address that leads to a server by a network that takes so long each way."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    loop = asyncio.get_running_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            loop.call_later(delay_s, writer.write, data)
        loop.call_later(delay_s, writer.close)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as proxy:
        yield f"tcp://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


async def drive(address: str, name: str, actions: int = ACTIONS, budget_ms: float = BUDGET_MS) -> None:
    async with AsyncConnection(address, name, "arm") as connection:
        model = connection.model("m", latency_budget_ms=budget_ms, late="serve")
        for _ in range(actions + 1):
            with contextlib.suppress(InferenceError):
                await model.infer(60_000, state=STATE)


async def slow_network(server: Server, again: Again) -> None:
    async with delayed(server.address, 0.03) as address:
        await again(lambda actions: drive(address, "arm", actions))


async def alone(server: Server, again: Again) -> None:
    await again(lambda actions: drive(server.address, "arm", actions))


async def among_others(server: Server, again: Again) -> None:
    await asyncio.gather(alone(server, again), *(drive(server.address, f"other-{number}", 20) for number in range(8)))


async def alone_then_among_others(server: Server, again: Again) -> None:
    await drive(server.address, "other", 5)
    await among_others(server, again)


async def reads_late(server: Server, again: Again) -> None:
    def control(actions: int) -> None:
        with Connection(server.address, "arm", "arm") as connection:
            model = connection.model("m", latency_budget_ms=BUDGET_MS)
            for _ in range(actions // 2):
                model.observe(state=STATE)
                time.sleep(0.09)
                model.get_result(60_000)
            model.infer(60_000, state=STATE)

    await again(lambda actions: asyncio.to_thread(control, actions))


CAUSES = [
    (fast, slow_network, "network"),
    (slow, alone, "model"),
    (busy, among_others, "queue"),
    (Batches(), alone_then_among_others, "batch"),
    (fast, reads_late, "unread on the robot"),
]


async def said_of(model: Any, stage: Stage, again: Again, capsys: pytest.CaptureFixture[str], cause: str) -> str:
    """Returns what is said of the robot after a stage, and sees that the counts agree."""
    async with serving(model) as (server, page):
        await stage(server, again)
        await asyncio.to_thread(run, ["why", "arm", page.address])
        counts = server.status().late_by_cause
        metric = server.metrics.get_stats("late_actions")
    assert max(counts, key=lambda one: counts[one]) == cause.split()[0]
    assert metric is not None
    return capsys.readouterr().out


async def once(drive: Drive) -> None:
    await drive(ACTIONS)


@pytest.mark.parametrize(("model", "stage", "cause"), CAUSES)
async def test_each_staged_cause_is_named(
    model: Any, stage: Stage, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = await said_of(model, stage, once, capsys, cause)
    assert said.startswith("arm: ")
    assert "% late since " in said
    assert f" {cause} (p95 " in said, said


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
@pytest.mark.parametrize(("model", "stage", "cause"), CAUSES)
async def test_a_robot_that_restarts_and_a_clock_that_is_set_change_no_cause(
    model: Any,
    stage: Stage,
    cause: str,
    step_s: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def twice(drive: Drive) -> None:
        await drive(ACTIONS // 2)
        clock, clock_ns = time.time, time.time_ns
        monkeypatch.setattr("time.time", lambda: clock() + step_s)
        monkeypatch.setattr("time.time_ns", lambda: clock_ns() + int(step_s * 1e9))
        await drive(ACTIONS // 2)

    said = await said_of(model, stage, twice, capsys, cause)
    assert f" {cause} (p95 " in said, said
    age_ms = float(re.findall(r" of (\d+) ms", said)[0])
    assert BUDGET_MS < age_ms < 10_000


async def test_of_two_robots_of_one_type_the_one_with_the_bad_network_is_late(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(fast) as (server, page):
        twin = drive(server.address, "twin", budget_ms=60_000.0)  # which no pause of the machine exceeds
        await asyncio.gather(slow_network(server, once), twin)
        for robot in ("arm", "twin"):
            await asyncio.to_thread(run, ["why", robot, page.address])
    late, in_time = capsys.readouterr().out.splitlines()
    assert " network (p95 " in late
    assert in_time.startswith("twin: ")
    assert "network (p95" not in in_time


@pytest.mark.parametrize(
    ("model", "others", "cause"), [(slow, 0, "model"), (busy, 8, "queue"), (Batches(), 8, "batch")]
)
async def test_causes_on_the_server_are_named_of_a_robot_behind_a_gateway_too(
    model: Any, others: int, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    websockets = pytest.importorskip("websockets.asyncio.client")
    from inferential.config.gateways import OpenPiConfig
    from inferential.gateway import OpenPiGateway
    from inferential.proto.msgpack_numpy import pack

    async with (
        serving(model) as (server, page),
        OpenPiGateway(server, OpenPiConfig(port=0, model="m")) as gateway,
    ):

        async def robot(actions: int) -> str:
            async with websockets.connect(gateway.address, compression=None) as socket:
                await socket.recv()
                for _ in range(actions):
                    await socket.send(pack({"state": STATE}))
                    await socket.recv()
                return next(one.client_id for one in server.status().clients if one.models)

        if others:
            await robot(5)
        names = await asyncio.gather(*(robot(ACTIONS) for _ in range(others + 1)))
        late = max(server.status().clients, key=lambda one: one.models[0].lateness.late if one.models else 0)
        await asyncio.to_thread(run, ["why", late.client_id, page.address])
    said = capsys.readouterr().out
    assert f" {cause} (p95 " in said, (said, names)


async def test_a_robot_that_is_not_there_or_not_given_is_an_error_that_names_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(fast) as (server, page):
        await alone(server, once)
        await asyncio.to_thread(run, ["why", page.address, "arm"])
        assert capsys.readouterr().out.startswith("arm: ")
        with pytest.raises(CliError, match=r"a robot's id is missing: inferential why ROBOT http://.*; there is: arm$"):
            await asyncio.to_thread(run, ["why", page.address])
        with pytest.raises(CliError, match=r"no robot 'leg' at .*; there is: arm"):
            await asyncio.to_thread(run, ["why", "leg", page.address])


async def test_of_a_robot_answered_once_it_says_why_nothing_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(fast) as (server, page), AsyncConnection(server.address, "arm") as connection:
        await connection.model("m").infer(60_000, state=STATE)
        await asyncio.to_thread(run, ["why", "arm", page.address])
    assert capsys.readouterr().out == "arm: answered once; how late that was it says with its next observation\n"


async def test_of_a_robot_with_two_handles_answered_once_each_it_says_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(fast) as (server, page), AsyncConnection(server.address, "arm") as connection:
        for _ in range(2):
            await connection.model("m").infer(60_000, state=STATE)
        await asyncio.to_thread(run, ["why", "arm", page.address])
    assert capsys.readouterr().out == "arm: answered 2 times; how late that was it says with its next observation\n"


async def test_of_a_robot_that_is_gone_it_says_when_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(fast, gone_after_s=0.1) as (server, page):
        await drive(server.address, "arm", 1)
        async with asyncio.timeout(60):
            while server.status().clients[0].state != "gone":  # noqa: ASYNC110 (no event is set)
                await asyncio.sleep(0.02)
        await asyncio.to_thread(run, ["why", "arm", page.address])
    assert capsys.readouterr().out == "arm is gone; its figures went with it: ask while it is connected\n"


async def test_json_has_the_figures_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(slow) as (server, page):
        await alone(server, once)
        await asyncio.to_thread(run, ["why", "arm", page.address, "--json"])
    found = json.loads(capsys.readouterr().out)["m"]
    assert found["late"] == found["actions"] >= ACTIONS
    assert found["parts"]["model"]["p50"] >= 55
    assert found["text"].startswith("arm: 100 % late since ")


async def test_requests_that_get_no_answer_are_named_beside_actions_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    def choosy(observation: dict[str, Any]) -> float:
        if observation["state"][0]:
            raise ValueError("no cup") if observation["state"][0] == 1 else KeyError("spoon")
        return 1.0

    async with serving(choosy) as (server, page):
        async with AsyncConnection(server.address, "arm") as connection:
            model = connection.model("m", latency_budget_ms=60_000.0)
            for wanted in (0, 0, 0, 1, 2, 1):
                with contextlib.suppress(InferenceError):
                    await model.infer(60_000, state=np.full(3, wanted, np.float32))
        await asyncio.to_thread(run, ["why", "arm", page.address])
        said = capsys.readouterr().out
        await asyncio.to_thread(run, ["why", "arm", page.address, "--json"])
    lines = said.splitlines()
    assert lines[0].startswith("arm: all 3 actions in time")
    assert re.fullmatch(r"arm: 2 requests without an answer, the last \d+ s ago \(model failed\): .*no cup", lines[1])
    assert [" (model failed): " in line for line in lines] == [False, True, True]  # one line for each cause
    errors = json.loads(capsys.readouterr().out)["m"]["errors"]
    assert [(error["kind"], error["count"]) for error in errors] == [("model_failed", 1)] * 3
