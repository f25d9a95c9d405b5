"""`inferential replay`: a recording asked again of the same model, of another one, and of a server."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from tests.recording.test_recorder import ask, files, policy, recording

from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.cli.answer_differences import Compared
from inferential.cli.app import run
from inferential.cli.errors import CliError
from inferential.config import InferentialConfig
from inferential.config.recording import RecordingConfig
from inferential.recording.reading import Recorded, read_recording
from inferential.recording.recorder import Recorder
from inferential.scheduler.running import Batch

POLICIES = """
import numpy as np

def same(observation):
    state = observation["state"] + 1
    return {"actions": np.stack([state, state]), "note": "ok"}

def newer(observation):
    state = observation["state"] + 1
    state[2] += 0.25
    return {"actions": np.stack([state, state])}

def shorter(observation):
    return {"actions": observation["state"][None]}

def broken(observation):
    state = observation["state"] + 1
    state[0] = np.nan
    return {"actions": np.stack([state, state])}

class Counting:
    def infer(self, observation, session):
        session.state = (session.state or 0) + 1
        state = observation["state"] + session.state
        return {"actions": np.stack([state, state])}

def failing(observation):
    raise ValueError("no cup")
"""


@pytest.fixture
async def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording of two robots, in the current directory, beside `replayed_policies.py`."""
    (tmp_path / "replayed_policies.py").write_text(POLICIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    async with recording(tmp_path / "recordings") as (server, _):
        await ask(server, "arm-01")
        await ask(server, "arm-02")
    (found,) = files(tmp_path / "recordings")
    return found


def replayed(path: Path, model: str, *options: str) -> int:
    return int(run(["replay", str(path), "--model", f"replayed_policies:{model}", *options]) or 0)


async def test_the_same_model_answers_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(replayed, path, "same", "--max-difference", "0") == 0
    assert "6 answers compared; largest difference 0, 0 allowed" in capsys.readouterr().out


async def test_another_model_is_compared_by_dimension(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(replayed, path, "newer", "--max-difference", "0.1", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["compared"], found["max_difference"], found["passed"]) == (6, 0.25, False)
    by_dimension = {row["dimension"]: row["max"] for row in found["differences"]}
    assert by_dimension == {dimension: 0.25 if dimension == 2 else 0.0 for dimension in range(7)}
    assert await asyncio.to_thread(replayed, path, "newer", "--max-difference", "0.3") == 0


@pytest.mark.parametrize(
    ("model", "text"), [("shorter", "6 x actions: (1, 7) in place of (2, 7)"), ("failing", "no cup")]
)
async def test_answers_that_cannot_be_compared_fail(
    model: str, text: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(replayed, path, model) == 1
    assert text in capsys.readouterr().out


async def test_what_two_models_were_asked_is_not_asked_of_one(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with recording(path.parent) as (server, _):
        await ask(server, model_id="other")
    with pytest.raises(CliError, match=r"of 2 models is recorded \(other, pi0\): choose by --only MODEL"):
        await asyncio.to_thread(run, ["replay", str(path.parent), "--model", "replayed_policies:same"])
    only = ["replay", str(path.parent), "--model", "replayed_policies:same", "--only", "other"]
    assert await asyncio.to_thread(run, only) == 0
    assert "3 answers compared" in capsys.readouterr().out


async def test_a_policy_with_memory_gets_each_recorded_session_as_one(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(replayed, path, "Counting", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["compared"], found["max_difference"]) == (6, 2)  # three of each robot: it adds 1, 2 and 3


async def test_nan_in_place_of_a_number_is_no_small_difference(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(replayed, path, "broken", "--max-difference", "1e9", "--json") == 1
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["compared"], found["max_difference"], found["passed"]) == (6, None, False)


async def test_figures_and_a_picture_of_them_are_saved(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for model in ("newer", "broken", "shorter"):
        out = tmp_path / model
        assert await asyncio.to_thread(replayed, path, model, "--max-difference", "0.1", "--out", str(out)) == 1
        assert (out / "differences.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "differences.svg").read_text()
        assert json.loads((out / "replay.json").read_text())["compared"] == (0 if model == "shorter" else 6)


def test_models_with_arrays_of_one_name_are_compared_apart() -> None:
    compared = Compared(0)
    for model, size in (("small", 2), ("large", 5)):
        one = Recorded("arm", "", model, "1", 1, 0, answer={"actions": np.zeros(size), "note": "ok"})
        compared.add(one, {"actions": np.arange(size)})
    assert [(row.model, row.dimension, row.largest) for row in compared.rows()] == [
        *(("small", number, number) for number in range(2)),
        *(("large", number, number) for number in range(5)),
    ]
    assert compared.worst == 4


async def test_a_server_is_asked_as_the_fleet_asked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": policy})) as server:
        arguments = ["replay", str(path), "--server", server.address, "--speed", "4", "--max-difference", "0"]
        assert not await asyncio.to_thread(run, arguments)
        assert set(server.known_clients) == {"arm-01", "arm-02"}
    assert "6 answers compared" in capsys.readouterr().out


async def test_a_robot_that_came_later_comes_later_again(tmp_path: Path) -> None:
    async with recording(tmp_path) as (server, _):
        for number in range(2):
            await ask(server, f"arm-{number}", state=np.full(7, number, np.float32))
    (path,) = files(tmp_path)
    found = list(read_recording(path))
    later_s = (found[3].received_ns - found[0].received_ns) / 1e9
    asked: list[int] = []

    def noting(observation: dict[str, Any]) -> dict[str, Any]:
        asked.append(int(observation["state"][0]))
        return {"actions": observation["state"]}

    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": noting})) as server:
        arguments = ["replay", str(path), "--server", server.address, "--speed", str(later_s)]  # so it is a second
        await asyncio.to_thread(run, arguments)
    assert asked == [0, 0, 0, 1, 1, 1]


async def test_what_a_robot_asked_at_once_is_asked_at_once_again(tmp_path: Path) -> None:
    at_once = 0

    async def slow(observation: dict[str, Any]) -> dict[str, Any]:
        nonlocal at_once
        asked.append(None)
        if len(asked) == 3:
            every.set()
        await asyncio.wait_for(every.wait(), 60)
        return {"actions": observation["state"]}

    for _ in range(2):  # recorded, then replayed
        asked: list[None] = []
        every = asyncio.Event()
        config = InferentialConfig.model_validate(
            {"models": {"known": {"pi0": {"max_inflight": 3}}}, "server": {"drain_timeout_s": 0.0}}
        )
        async with Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"pi0": slow})) as server:
            if not at_once:
                async with (
                    Recorder(server, RecordingConfig(path=str(tmp_path))),
                    AsyncConnection(server.address, "arm-01") as connection,
                ):
                    model = connection.model("pi0", queue="all", latency_budget_ms=60_000.0)
                    await asyncio.gather(*(model.infer(60_000, state=np.zeros(3)) for _ in range(3)))
            else:
                (found,) = files(tmp_path)
                arguments = ["replay", str(found), "--server", server.address, "--max-difference", "0"]
                assert await asyncio.to_thread(run, arguments) == 0
        at_once += len(asked)
    assert at_once == 6


async def test_a_robot_of_two_models_begins_episodes_of_each_where_it_did(tmp_path: Path) -> None:
    asked: list[tuple[str, int, int]] = []

    class Noting:
        def __init__(self, name: str) -> None:
            self.name = name

        def infer(self, observation: dict[str, Any], session: Any) -> dict[str, Any]:
            session.state = (session.state or 0) + 1
            asked.append((self.name, int(observation["turn"]), session.state))
            return {"actions": observation["turn"]}

    seen = []
    for replays in (False, True):
        asked.clear()
        dispatcher = LocalDispatcher({"arm": Noting("arm"), "hand": Noting("hand")})
        async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
            if replays:
                (found,) = files(tmp_path)
                arguments = ["replay", str(found), "--server", server.address, "--speed", "0"]
                assert await asyncio.to_thread(run, arguments) == 0
            else:
                async with (
                    Recorder(server, RecordingConfig(path=str(tmp_path))),
                    AsyncConnection(server.address, "robot") as connection,
                ):
                    arm, hand = connection.model("arm"), connection.model("hand")
                    for turn in range(6):
                        if turn in (2, 4):
                            await arm.reset()
                        for model in (arm, hand):
                            assert await model.infer(60_000, turn=np.array(turn)) is not None
            seen.append(list(asked))
    assert seen[0] == seen[1]
    assert [count for name, _, count in seen[0] if name == "arm"] == [1, 2, 1, 2, 1, 2]


async def test_a_server_gets_what_the_robots_stated(tmp_path: Path) -> None:
    stated: list[tuple[float, int, float, int | None]] = []

    class Noting:
        def dispatched(self, batch: Batch) -> None:
            stated.extend(
                (one.latency_budget_ms, one.priority, one.urgency, one.steps_remaining) for one in batch.requests
            )

        def answered(self, result: object) -> None: ...
        def ended(self, request: object) -> None: ...
        def used_late(self, used: object) -> None: ...

    seen = []
    for replays in (False, True):
        stated.clear()
        async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"pi0": policy})) as server:
            server.watch(Noting())
            if replays:
                (found,) = files(tmp_path)
                assert await asyncio.to_thread(run, ["replay", str(found), "--server", server.address]) == 0
            else:
                async with (
                    Recorder(server, RecordingConfig(path=str(tmp_path))),
                    AsyncConnection(server.address, "robot") as connection,
                ):
                    for budget in ({}, {"latency_budget_ms": 300.0}):
                        model = connection.model("pi0", control_rate_hz=50, **budget)
                        await model.infer(60_000, 0.5, 7, 0, state=np.zeros(7, np.float32))
                        await model.infer(60_000, state=np.zeros(7, np.float32))
            seen.append(list(stated))
    assert seen[0] == seen[1]
    assert seen[0][2:] == [(300.0, 0, 0.5, 7), (300.0, 1, 0.0, None)]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give one of --model MODULE:OBJECT and --server ADDRESS"),
        (["--model", "m:o", "--server", "x"], "give one of --model"),
        (["--server", "foo://x"], "server: expected HOST:PORT, tcp://HOST:PORT or ipc://PATH, got 'foo://x'"),
        (["--server", "localhost:99999"], "server: expected HOST:PORT, .* got 'localhost:99999'"),
        (["--server", "ipc://x", "--server-key", "s.key"], "secret_key: server_key is given, so the robot's own key"),
        (["--model", "m:o", "--only", "leg"], "no observation with an answer of model 'leg'; models: pi0"),
    ],
)
async def test_mistakes_are_explained(arguments: list[str], problem: str, path: Path) -> None:
    with pytest.raises(CliError, match=problem):
        await asyncio.to_thread(run, ["replay", str(path), *arguments])


async def test_a_server_that_is_not_there_is_an_error_at_once(path: Path, unused_tcp_port: int) -> None:
    with pytest.raises(CliError, match=f"--server: nothing listens at localhost:{unused_tcp_port}: Connection refused"):
        await asyncio.to_thread(run, ["replay", str(path), "--server", f"localhost:{unused_tcp_port}"])


def test_ctrl_c_ends_it_while_the_model_is_imported(path: Path) -> None:
    Path("slow.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "inferential", "replay", str(path), "--model", "slow:policy"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as asking:
        while not Path("begun").exists() and asking.poll() is None:
            time.sleep(0.01)
        asking.send_signal(signal.SIGINT)
        _, err = asking.communicate(timeout=60)
    assert (asking.returncode, err) == (130, b"")


async def test_every_observation_is_asked_however_many_fail(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["replay", *[str(path)] * 3, "--model", "replayed_policies:failing", "--json"]
    assert await asyncio.to_thread(run, asked) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == {"ModelFailed: ValueError: no cup": 18}
    assert await asyncio.to_thread(run, ["replay", str(path), "--model", "replayed_policies:failing"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["6 x ModelFailed: ValueError: no cup", "no answer could be compared"]


async def test_a_file_that_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(CliError, match=r"no\.mcap: No such file"):
        await asyncio.to_thread(run, ["replay", "no.mcap", "--model", "m:o"])
