"""`inferential advise` and `simulate --trace-in FILE.mcap`: a real server's requests through every strategy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from tests.recording.test_files import Requests
from tests.recording.test_recorder import files

from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.cli.app import run
from inferential.cli.errors import CliError
from inferential.config import InferentialConfig
from inferential.config.recording import RecordingConfig
from inferential.config.services import HttpConfig
from inferential.proto import inferential_pb2 as pb
from inferential.recording.cameras import Images
from inferential.recording.files import RecordingFiles
from inferential.recording.recorder import Recorder
from inferential.web import HttpServer

STATE = np.zeros(3, np.float32)


def policy(observation: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.004)
    return {"action": STATE}


@asynccontextmanager
async def asked(folder: Path) -> AsyncIterator[HttpServer]:
    """A server that three robots ask all the time, and whose requests are recorded."""
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})

    async def robot(server: Server, name: str) -> None:
        async with AsyncConnection(server.address, name, "arm") as connection:
            await connection.model("po1").observe(state=STATE)  # a misspelt id, which is refused
            model = connection.model("pi0", latency_budget_ms=5000.0)
            while True:
                await model.infer(60_000, state=STATE)
                await asyncio.sleep(0.01)

    async with (
        Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"pi0": policy})) as server,
        HttpServer(server, HttpConfig(port=0)) as page,
        Recorder(server, RecordingConfig(path=str(folder))),
    ):
        robots = [asyncio.create_task(robot(server, f"arm-{number}")) for number in range(3)]
        yield page
        for one in robots:
            one.cancel()
        await asyncio.wait(robots)


def now_and_then_slow(observation: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.03 if observation["state"][0] else 0.002)
    return {"action": STATE}


async def test_robots_that_wait_for_each_answer_are_simulated_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def robot(server: Server, number: int) -> None:
        async with AsyncConnection(server.address, f"arm-{number}", "arm") as connection:
            model = connection.model("pi0", latency_budget_ms=5000.0)
            for turn in range(25):
                await model.infer(60_000, state=np.full(3, turn % 3 == number % 3, np.float32))
                await asyncio.sleep(0.02)

    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": now_and_then_slow})) as server,
        Recorder(server, RecordingConfig(path=str(tmp_path))),
    ):
        await asyncio.gather(*(robot(server, number) for number in range(4)))
    recording = str(*files(tmp_path))
    await asyncio.to_thread(run, ["advise", recording, "--strategies", "round_robin", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["robots"], found["robots_waiting"]) == (4, 4)
    assert found["was"] == found["shares"]["round_robin"][0] == 1.0
    await asyncio.to_thread(run, ["simulate", "--trace-in", recording, "--strategy", "round_robin"])
    text = capsys.readouterr().out
    assert "4 of 4 robots wait for each answer before they ask again, and are simulated so" in text
    assert "bound:" not in text  # what is asked depends on the answers


async def test_a_running_server_is_watched_and_advised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(tmp_path) as page:
        arguments = ["advise", page.address, "--seconds", "1", "--strategies", "slo_aware", "--json"]
        await asyncio.to_thread(run, arguments)
    found = json.loads(capsys.readouterr().out)
    assert (found["robots"], found["in_force"]) == (3, "deadline_aware")
    assert set(found["shares"]) == {"slo_aware", "deadline_aware"}
    assert found["requests"] > 3
    assert found["was"] > 0.9
    assert found["advice"]


@pytest.fixture
async def recorded(tmp_path: Path) -> Path:
    async with asked(tmp_path):
        await asyncio.sleep(0.5)
    (path,) = files(tmp_path)
    return path


async def test_recordings_are_advised_on(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await asyncio.to_thread(run, ["advise", str(recorded), "--strategies", "deadline_aware,slo_aware"])
    text = capsys.readouterr().out
    assert "3 robots (1 x)" in text
    assert "as it was" in text
    assert "the server gave" in text


async def test_a_recording_is_simulated_beside_what_happened(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(run, ["simulate", "--trace-in", str(recorded), "--compare", "slo_aware", "--json"])
    was, simulated = json.loads(capsys.readouterr().out)
    assert (was["strategy"], simulated["strategy"]) == ("as it was", "slo_aware")
    assert was["overall"]["offered"] > 3
    assert simulated["overall"]["in_time"] > 0.8 * simulated["overall"]["offered"]


def test_a_recording_that_begins_with_robots_that_wait_is_simulated_with_what_they_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded, requests = RecordingFiles(tmp_path), Requests(10)
    for number in range(60):  # each of three robots waits for the two others
        entry = requests.next(f"arm-{number % 3}")
        entry.received_ns = number * 60_000_000
        entry.ended_ns = entry.received_ns + 180_000_000
        entry.answer |= {"server_ms": 180.0, "budget_ms": 170.0}
        timing = {"queue_ms": 120.0, "inference_ms": 60.0, "batch_size": 1}
        entry.result_envelope = pb.ModelResponse(timing=timing).SerializeToString()
        recorded.write(entry, Images("keep"))
    recorded.close()
    run(["simulate", "--trace-in", str(*files(tmp_path)), "--strategy", "round_robin", "--json"])
    was, simulated = json.loads(capsys.readouterr().out)
    assert (was["overall"]["in_time"], simulated["overall"]["in_time"]) == (0, 0)


async def test_more_robots_than_recorded_have_no_run_beside_them(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(run, ["simulate", "--trace-in", str(recorded.parent), "--load", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["overall"]["robots"] == 6


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["a.mcap"], r"a\.mcap: No such file"),
        (["localhost:1", "a.mcap"], "expected one URL, or recordings"),
        (["localhost:1", "--strategies", "best"], "best"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], problem: str) -> None:
    with pytest.raises(CliError, match=problem):
        run(["advise", *arguments])


async def test_a_server_without_robots_is_said(tmp_path: Path) -> None:
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": policy})) as server,
        HttpServer(server, HttpConfig(port=0)) as page,
    ):
        with pytest.raises(CliError, match="nothing was answered: 0 requests in 1 s; do robots ask"):
            await asyncio.to_thread(run, ["advise", page.address, "--seconds", "1"])


async def test_a_client_that_asks_all_the_time_is_no_fleet_to_advise_on() -> None:
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": policy})) as server,
        HttpServer(server, HttpConfig(port=0)) as page,
    ):
        address = server.address.removeprefix("tcp://")
        calling = asyncio.to_thread(run, ["call", address, "pi0", "state=[1]", "--repeat", "300", "--json"])
        advising = asyncio.to_thread(run, ["advise", page.address, "--seconds", "1"])
        with pytest.raises(CliError, match=r"as soon as it is answered, .*: \d+ requests in 1 s; do robots ask"):
            await asyncio.gather(advising, calling)


@pytest.mark.parametrize("seconds", ["0", "-1", "1e9", "soon", "nan"])
async def test_a_page_watches_for_a_while_and_no_longer(seconds: str) -> None:
    import urllib.error
    import urllib.request

    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": policy})) as server,
        HttpServer(server, HttpConfig(port=0)) as page,
    ):
        url = f"{page.address}/api/requests?seconds={seconds}"
        with pytest.raises(urllib.error.HTTPError, match="400"):
            await asyncio.to_thread(urllib.request.urlopen, url)
