"""`inferential why`: staged causes of lateness, each before a real server, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
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


async def drive(address: str, name: str, actions: int = ACTIONS) -> None:
    async with AsyncConnection(address, name) as connection:
        model = connection.model("m", latency_budget_ms=BUDGET_MS, late="serve")
        for _ in range(actions + 1):
            with contextlib.suppress(InferenceError):
                await model.infer(5000, state=STATE)


async def slow_network(server: Server) -> None:
    async with delayed(server.address, 0.03) as address:
        await drive(address, "arm")


async def alone(server: Server) -> None:
    await drive(server.address, "arm")


async def among_others(server: Server) -> None:
    await asyncio.gather(
        drive(server.address, "arm"), *(drive(server.address, f"other-{number}", 20) for number in range(8))
    )


async def alone_then_among_others(server: Server) -> None:
    await drive(server.address, "other", 5)
    await among_others(server)


async def reads_late(server: Server) -> None:
    def control() -> None:
        with Connection(server.address, "arm") as connection:
            model = connection.model("m", latency_budget_ms=BUDGET_MS)
            for _ in range(5):
                model.observe(state=STATE)
                time.sleep(0.09)
                model.get_result(5000)
            model.infer(5000, state=STATE)

    await asyncio.to_thread(control)


@pytest.mark.parametrize(
    ("model", "stage", "cause"),
    [
        (fast, slow_network, "network"),
        (slow, alone, "model"),
        (busy, among_others, "queue"),
        (Batches(), alone_then_among_others, "batch"),
        (fast, reads_late, "unread on the robot"),
    ],
)
async def test_each_staged_cause_is_named(
    model: Any,
    stage: Callable[[Server], Coroutine[Any, Any, None]],
    cause: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(model) as (server, page):
        await stage(server)
        await asyncio.to_thread(run, ["why", "arm", page.address])
        said = capsys.readouterr().out
        counts = server.status().late_by_cause
        metric = server.metrics.get_stats("late_actions")
    assert said.startswith("arm: ")
    assert "% late since " in said
    assert f" {cause} (p95 " in said, said
    assert max(counts, key=lambda one: counts[one]) == cause.split()[0]
    assert metric is not None


async def test_a_robot_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    async with serving(fast) as (server, page):
        await alone(server)
        with pytest.raises(CliError, match=r"no robot 'leg' at .*; there is: arm"):
            await asyncio.to_thread(run, ["why", "leg", page.address])


async def test_of_a_robot_answered_once_it_says_why_nothing_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(fast) as (server, page), AsyncConnection(server.address, "arm") as connection:
        await connection.model("m").infer(5000, state=STATE)
        await asyncio.to_thread(run, ["why", "arm", page.address])
    assert capsys.readouterr().out == "arm: answered once; how late that was it says with its next observation\n"


async def test_of_a_robot_that_is_gone_it_says_when_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(fast, gone_after_s=0.1) as (server, page):
        await drive(server.address, "arm", 1)
        async with asyncio.timeout(10):
            while server.status().clients[0].state != "gone":  # noqa: ASYNC110 (no event is set)
                await asyncio.sleep(0.02)
        await asyncio.to_thread(run, ["why", "arm", page.address])
    assert capsys.readouterr().out == "arm is gone; its figures went with it: ask while it is connected\n"


async def test_json_has_the_figures_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(slow) as (server, page):
        await alone(server)
        await asyncio.to_thread(run, ["why", "arm", page.address, "--json"])
    found = json.loads(capsys.readouterr().out)["m"]
    assert found["late"] == found["actions"] >= ACTIONS
    assert found["parts"]["model"]["p50"] >= 55
    assert found["text"].startswith("arm: 100 % late since ")


async def test_requests_that_get_no_answer_are_named_beside_actions_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    def choosy(observation: dict[str, Any]) -> float:
        if observation["state"][0]:
            raise ValueError("no cup")
        return 1.0

    async with serving(choosy) as (server, page):
        async with AsyncConnection(server.address, "arm") as connection:
            model = connection.model("m", latency_budget_ms=60_000.0)
            for wanted in (0, 0, 0, 1, 1):
                with contextlib.suppress(InferenceError):
                    await model.infer(20_000, state=np.full(3, wanted, np.float32))
        await asyncio.to_thread(run, ["why", "arm", page.address])
        said = capsys.readouterr().out
        await asyncio.to_thread(run, ["why", "arm", page.address, "--json"])
    lines = said.splitlines()
    assert lines[0].startswith("arm: all 3 actions in time")
    assert re.fullmatch(r"arm: 2 requests without an answer, the last \d+ s ago \(model failed\): .*no cup", lines[-1])
    (error,) = json.loads(capsys.readouterr().out)["m"]["errors"]
    assert (error["kind"], error["count"]) == ("model_failed", 2)
