"""What a worker process says of a call that ends, while its results are still to be written."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dispatch.conftest import Serving, in_time, make_request, models_of, read, robot
from tests.dispatch.conftest import ask_robot as ask

from inferential import LocalDispatcher, ModelFailed, ModelProcess

if sys.platform != "linux":
    pytest.skip("worker processes are watched by pidfd", allow_module_level=True)

MODELS = """
import os, time
from pathlib import Path
import numpy as np

class Late(dict):
    # Its values are asked for where the result is written.
    def items(self):
        if self["actions"][0] < 0:
            os._exit(5)
        while not Path("go").exists():
            time.sleep(0.001)
        return super().items()

class Slow:
    max_batch_size = 1

    def __init__(self, seconds=0.005):
        self.seconds = seconds

    def infer(self, observation):
        time.sleep(self.seconds)
        if observation["state"][0] == 13:
            raise ValueError("unlucky")
        return Late(actions=observation["state"].copy())

class SlowBatch(Slow):
    max_batch_size = 4

    def infer_batch(self, observations):
        time.sleep(self.seconds)
        return [Late(actions=one["state"].copy()) for one in observations]
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelProcess]:
    """`model("name")`: a model whose results are written once there is a file `go`."""
    return models_of(MODELS, "late", tmp_path, monkeypatch)


@pytest.fixture
async def dispatcher(model: Callable[..., ModelProcess]) -> Any:
    dispatcher = LocalDispatcher({"m": model("Slow"), "batch": model("SlowBatch")})
    await dispatcher.start()
    yield dispatcher
    await dispatcher.close()


@pytest.mark.parametrize(("name", "rows"), [("m", 1), ("batch", 3)])
async def test_a_call_ends_before_its_results_are_written(dispatcher: LocalDispatcher, name: str, rows: int) -> None:
    ended: list[Any] = []

    def on_ending(requests: Any) -> None:
        ended.append(requests)
        Path("go").touch()

    dispatcher.on_ending = on_ending
    requests = [make_request(name, {"state": np.full(2, number)}) for number in range(1, rows + 1)]
    results = await in_time(dispatcher.dispatch(requests))
    assert [read(one).values["actions"].tolist() for one in results] == [[n, n] for n in range(1, rows + 1)]
    assert ended[0] is requests


async def test_of_a_call_that_failed_nothing_is_said_ahead(dispatcher: LocalDispatcher) -> None:
    ended: list[Any] = []
    dispatcher.on_ending = ended.append
    (result,) = await in_time(dispatcher.dispatch([make_request("m", {"state": np.full(2, 13)})]))
    assert result.error == "ValueError: unlucky"
    assert ended == []


async def test_the_call_that_follows_survives_a_process_that_ends_while_it_writes_results(
    serving: Serving, model: Callable[..., ModelProcess], tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    server, _ = await serving(m=model("Slow", args={"seconds": 0.05}))
    async with robot(server, "m", "bad") as bad, robot(server, "m", "good") as good:
        ends = asyncio.create_task(ask(bad, state=np.full(2, -1.0)))
        await asyncio.sleep(0.01)
        assert (await ask(good, state=np.full(2, 3.0)))["actions"].tolist() == [3, 3]
        with pytest.raises(ModelFailed, match=r"while (it|they) ran this observation"):
            await ends
