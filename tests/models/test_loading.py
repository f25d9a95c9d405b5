"""Models that load while the server listens."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferential import (
    AsyncConnection,
    LocalDispatcher,
    ModelFailing,
    ModelLoading,
    ModelProcess,
    ModelThread,
    Server,
)
from inferential.config import InferentialConfig
from inferential.metrics.names import MODEL_STATE_CHANGES
from inferential.models.catalog import code_stamp
from inferential.replica import loading_turns
from inferential.replica.outcomes import ModelLoadError
from inferential.replica.spec import ModelLoader
from inferential.replica.targets import TargetError
from inferential.replica.warming import load_observations

MODELS = """
import os, time
import numpy as np

def wait(name):
    while not os.path.exists(name):
        time.sleep(0.01)

class Slow:
    max_batch_size = 4
    def __init__(self, go):
        wait(go)
        self.calls = 0
    def infer_batch(self, rows):
        self.calls += 1
        return [{"actions": row["state"] * 2, "calls": self.calls} for row in rows]

def echo(observation):
    return observation

def rows():
    return {"state": np.ones(2)}

class Broken:
    def __init__(self):
        raise RuntimeError("no weights")
    def infer(self, observation): ...
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "loading_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("loading_models", None)


def config(wait_s: float = 0.0) -> InferentialConfig:
    return InferentialConfig.model_validate({"server": {"ready_wait_s": wait_s}})


async def until(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():  # noqa: ASYNC110 (of another process)
            await asyncio.sleep(0.01)


def state(server: Server, model_id: str = "m") -> str:
    return next(model for model in server.status().models if model.model_id == model_id).state


def served(models: dict[str, Any], wait_s: float = 0.0) -> Server:
    return Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models), config=config(wait_s))


async def ask(server: Server, model_id: str = "m", timeout_ms: float = 20_000, **options: Any) -> Any:
    async with AsyncConnection(server.address) as connection:
        return await connection.model(model_id, **options).infer(timeout_ms, state=np.ones(2, np.float32))


def process(**options: Any) -> ModelProcess:
    return ModelProcess("loading_models:Slow", {"go": "go"}, **options)


async def test_ports_are_open_while_a_model_loads_and_robots_get_to_know(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inferential")
    async with served({"m": process(), "quick": ModelProcess("loading_models:echo")}) as server:
        assert state(server) == "loading"
        assert (await ask(server, "quick")) is not None
        assert any("'m'" in problem and "loading" in problem for problem in server.readiness())
        with pytest.raises(ModelLoading, match="model 'm' is loading for"):
            await ask(server, latency_budget_ms=30.0)
        waiting = asyncio.create_task(ask(server))
        (place / "go").touch()
        assert (await waiting)["actions"].tolist() == [2.0, 2.0]
        assert state(server) == "ready"
        assert server.readiness() == []
        points = server.metrics.snapshot().metrics[MODEL_STATE_CHANGES]
        seen = [one["labels"]["state"] for one in points if one["labels"]["model"] == "m"]
        assert seen == ["loading", "ready"]
        (loading, up) = [one for one in caplog.messages if one.startswith("model m is")]
        assert (loading, up.rstrip("0123456789")) == ("model m is loading", "model m is up in process ")


async def test_a_model_of_the_servers_process_is_made_in_a_thread_while_it_listens() -> None:
    go, made_in = threading.Event(), []

    def make() -> Callable[[Any], Any]:
        go.wait(60)
        made_in.append(threading.current_thread())
        return lambda observation: observation["state"]

    async with served({"m": ModelLoader(make)}) as server:
        assert state(server) == "loading"
        with pytest.raises(ModelLoading):
            await ask(server, latency_budget_ms=30.0)
        waiting = asyncio.create_task(ask(server))
        go.set()
        assert (await waiting) is not None
    assert made_in[0] is not threading.main_thread()


@pytest.mark.parametrize("source", ["loading_models:rows", "rows.json", "rows.npz"])
@pytest.mark.parametrize("kind", ["process", "thread"])
async def test_a_warm_up_runs_before_it_is_ready_and_its_latencies_are_the_first_profile(
    place: Path, source: str, kind: str
) -> None:
    (place / "go").touch()
    (place / "rows.json").write_text('{"state": [1, 2], "prompt": "go"}')
    np.savez(place / "rows.npz", state=np.ones(2), prompt="go")
    import loading_models

    models = {
        "process": process(warm_up=source),
        "thread": ModelLoader(lambda: loading_models.Slow("go"), warm_up=source),
    }
    async with served({"m": models[kind]}) as server:
        await until(lambda: state(server) == "ready")
        sizes = [size.batch_size for model in server.status().models for size in model.latency]
        assert sizes == [1, 2, 4]
        assert (await ask(server))["calls"] == 13


async def test_last_warms_up_a_restarted_process_with_what_a_robot_sent(place: Path) -> None:
    (place / "go").touch()
    dispatcher = LocalDispatcher({"m": process(warm_up="last")})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher, config=config(20)) as server:
        assert (await ask(server))["calls"] == 1
        dispatcher.register_model("m", process(warm_up="last"))
        await until(lambda: state(server) != "ready")
        assert (await ask(server))["calls"] == 13


def broken() -> Any:
    raise RuntimeError("no weights")


PLACES = {"process": ModelProcess("loading_models:Broken"), "thread": ModelLoader(broken)}


@pytest.mark.parametrize("where", PLACES)
async def test_one_model_that_cannot_be_loaded_leaves_the_others_served(place: Path, where: str) -> None:
    models = {"m": PLACES[where], "n": ModelProcess("loading_models:echo")}
    async with served(models, 20) as server:
        assert (await ask(server, "n")) is not None
        found = next(model for model in server.status().models if model.model_id == "m")
        assert found.state == "failing"
        assert "no weights" in found.why
        with pytest.raises(ModelFailing, match="no weights"):
            await ask(server)


@pytest.mark.parametrize("where", PLACES)
async def test_as_many_models_load_at_once_as_there_are_cores_and_the_others_say_what_they_wait_for(
    place: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_turns, "cores", lambda: 2)
    monkeypatch.setattr(loading_turns, "PATIENCE_S", 60.0)
    go, begun = threading.Event(), []

    def make() -> Any:
        begun.append("")
        go.wait(60)
        return lambda observation: observation["state"]

    (place / "slow.py").write_text(
        "import os, pathlib, loading_models\npathlib.Path(f'begun-{os.getpid()}').touch()\n"
        "loading_models.wait('go')\npolicy = loading_models.echo\n"
    )
    models = {
        str(number): ModelProcess("slow:policy") if where == "process" else ModelLoader(make) for number in "abcd"
    }
    async with served(models) as server:
        await until(lambda: len(begun) + len(list(place.glob("begun-*"))) == 2)
        said = {one.model_id: (one.state, one.why) for one in server.status().models}
        waits = ("loading", "it waits for its turn, as others load")
        assert said == {"a": ("loading", ""), "b": ("loading", ""), "c": waits, "d": waits}
        (place / "go").touch()
        go.set()
        await asyncio.wait_for(server.model_ready("d"), 60)
        assert (await ask(server, "d")) is not None


@pytest.mark.parametrize("where", PLACES)
async def test_what_waits_for_a_model_that_turns_out_not_to_load_fails_then(place: Path, where: str) -> None:
    go = threading.Event()
    (place / "late.py").write_text("import loading_models\nloading_models.wait('go')\nraise RuntimeError('no weights')")
    models = {"process": ModelProcess("late:policy"), "thread": ModelLoader(lambda: go.wait(60) and broken())}
    async with served({"m": models[where], "n": lambda observation: observation}) as server:
        waiting = asyncio.create_task(ask(server))
        await until(lambda: next(one for one in server.status().models if one.model_id == "m").waiting == 1)
        (place / "go").touch()
        go.set()
        with pytest.raises(ModelFailing, match="no weights"):
            await waiting


@pytest.mark.parametrize("where", ["process", "thread"])
async def test_a_model_that_cannot_be_loaded_is_tried_again(
    place: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> Any:
        if not (place / "go").exists():
            raise RuntimeError("no weights")
        return lambda observation: observation

    (place / "retried.py").write_text(
        "import os\nif not os.path.exists('go'):\n    raise RuntimeError('no weights')\n"
        "def policy(observation):\n    return observation\n"
    )
    models = {"process": ModelProcess("retried:policy"), "thread": ModelLoader(make)}
    async with served({"m": models[where], "n": ModelThread(lambda observation: observation)}, 20) as server:
        with pytest.raises(ModelFailing, match="no weights"):
            await ask(server)
        (place / "go").touch()
        await asyncio.wait_for(server.model_ready("m"), 60)
        assert (await ask(server)) is not None
    assert len([one for one in caplog.messages if "no weights" in one and "started again in 0.1 s" in one]) == 1


async def test_a_server_none_of_whose_models_can_be_loaded_does_not_start(place: Path) -> None:
    with pytest.raises(ModelLoadError, match="no weights"):
        async with served({"m": ModelProcess("loading_models:Broken")}, 20):
            pass


async def test_ready_is_awaited(place: Path) -> None:
    async with served({"m": process()}) as server:
        waiting = asyncio.create_task(server.model_ready("m"))
        await asyncio.sleep(0)
        (place / "go").touch()
        await asyncio.wait_for(waiting, 60)
        assert state(server) == "ready"


@pytest.mark.parametrize(
    ("source", "content", "why"),
    [
        ("gone.npz", None, "No such file"),
        ("empty.json", "[]", "expected an observation"),
        ("list.json", "[1, 2]", "expected an object"),
        ("cut.json", "{", "JSONDecodeError"),
        ("loading_models:broken", None, "has no 'broken'"),
        ("os:getpid", None, "'int' object is not iterable"),
    ],
)
def test_a_warm_up_that_cannot_be_read_is_named(place: Path, source: str, content: str | None, why: str) -> None:
    if content is not None:
        (place / source).write_text(content)
    with pytest.raises(TargetError, match=re.escape(f"warm_up {source!r}: ") + f".*{why}"):
        load_observations(source)


def test_code_that_was_imported_meanwhile_has_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # as a server's, which is not where Python looks for modules
    (tmp_path / "reach_by_name.py").write_text("def reach(observation): ...")
    before = code_stamp("reach_by_name:reach")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("reach_by_name")
    assert before == code_stamp("reach_by_name:reach") != []
