"""Models in processes some of which cannot be loaded, or not at once: robots go to those that are up, or wait."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dispatch.conftest import Serving, in_time, load, models_of, robot, until
from tests.dispatch.conftest import ask_robot as ask

from inferential import InferenceError, LocalDispatcher, ModelFailing, ModelProcess, Server

if sys.platform != "linux":
    pytest.skip("worker processes are watched by pidfd", allow_module_level=True)

MODELS = """
import os, time
from pathlib import Path

class Policy:
    max_batch_size = 4

    def __init__(self):
        Path(f"loading-{os.getpid()}").touch()
        while Path("hold").exists():
            time.sleep(0.01)
        if Path("lost").exists() or "LOST" in os.environ:
            raise OSError("no weights")

    def infer_batch(self, observations):
        return [observation["state"] for observation in observations]
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelProcess]:
    """`models("Policy", ...)`: a model that loads once there is no file `hold`, and fails to with a file `lost`."""
    return models_of(MODELS, "reloaded", tmp_path, monkeypatch)


def loading(place: Path) -> set[int]:
    """The processes that have begun to load a model."""
    return {int(path.name.partition("-")[2]) for path in place.glob("loading-*")}


async def test_a_replica_that_cannot_be_loaded_gets_no_calls(models: Any, tmp_path: Path) -> None:
    dispatcher = LocalDispatcher({"m": models("Policy", replicas=[{"LOST": "1"}, {}])})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        await until(lambda: len(loading(tmp_path)) >= 3 and len(dispatcher.process_ids("m")) == 1)
        assert dispatcher.replicas("m") == ["1"]
        assert (dispatcher.max_batch_size("m"), dispatcher.max_inflight("m")) == (4, 1)
        async with load(server, "m", robots=4) as ends:
            await until(lambda: ends["answered"] >= 40)
        assert ends["asked"] == ends["answered"]
        assert "1 of 2 processes do not run: " in dispatcher.problems()["m"].reason


async def test_a_process_that_is_killed_while_it_loads_costs_no_request(
    serving: Serving, models: Any, tmp_path: Path
) -> None:
    server, dispatcher = await serving(m=models("Policy"))
    async with load(server, "m", robots=2) as ends:
        await until(lambda: ends["answered"] > 4)
        (tmp_path / "hold").touch()
        before = loading(tmp_path)
        os.kill(dispatcher.process_ids("m")[0], signal.SIGKILL)
        await until(lambda: loading(tmp_path) > before)
        for pid in loading(tmp_path) - before:
            os.kill(pid, signal.SIGKILL)
        (tmp_path / "hold").unlink()
        answered = ends["answered"]
        await until(lambda: ends["answered"] > answered + 4)
    assert ends["asked"] - ends["answered"] <= 2, ends  # what ran in the first process is lost with it
    assert ends["asked"] == ends["answered"] + ends["ModelFailed"]


async def test_once_a_model_can_be_loaded_again_robots_are_answered_at_once(
    serving: Serving, models: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, dispatcher = await serving(m=models("Policy"))
    async with robot(server, "m") as model:
        await ask(model, state=np.zeros(2))
        (tmp_path / "lost").touch()
        os.kill(dispatcher.process_ids("m")[0], signal.SIGKILL)
        failed = 0
        while failed < 30:
            try:
                await ask(model, state=np.zeros(2))
            except InferenceError as error:
                failed += isinstance(error, ModelFailing) and "no weights" in error.reason
        (tmp_path / "lost").unlink()
        await until(lambda: bool(dispatcher.process_ids("m")), 60.0)
        assert (await in_time(asyncio.create_task(ask(model, state=np.ones(2)))))["actions"].tolist() == [1.0, 1.0]
    assert "is not asked for now" not in caplog.text
