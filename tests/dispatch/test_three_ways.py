"""A policy gives the same answers and the same errors in a process, in a thread and on the event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dispatch.conftest import Serving, load, models_of, robot

from inferential import InferenceError, LocalDispatcher
from inferential.replica.outcomes import ModelLoadError
from inferential.replica.spec import ModelInline, ModelLoader, ModelThread
from inferential.replica.targets import load_target

if sys.platform != "linux":
    pytest.skip("worker processes are watched by pidfd", allow_module_level=True)

MODELS = """
import asyncio
import numpy as np
from inferential import InvalidObservation

class Text(str):
    pass

class Base(BaseException):
    pass

class Unreadable:
    def __str__(self):
        raise RuntimeError("no words")

RAISED = {
    "base": Base("b"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "cancelled": asyncio.CancelledError("c"),
    "stop": StopIteration(3),
    "timeout": TimeoutError("t"),
    "connection": ConnectionResetError("c"),
    "invalid": InvalidObservation("bad"),
    "invalid by error": InvalidObservation(ValueError("bad light")),
    "invalid by number": InvalidObservation(5),
    # Like one of a class that does not call the constructor of its base.
    "invalid by class": InvalidObservation.__new__(InvalidObservation, 2),
    "invalid unreadable": InvalidObservation(Unreadable()),
}

def act(observation):
    what = observation.get("do", "")
    if what in RAISED:
        raise RAISED[what]
    if what == "text":
        return {"actions": observation["state"], "note": Text("fine")}
    return observation["state"]

class Batch:
    max_batch_size = 8

    def infer_batch(self, observations):
        rows = [act(one) for one in observations]
        if any(one.get("do") == "taken out" for one in observations):
            observations.clear()
            return {"actions": np.stack(rows)}
        return rows

class Sized:
    max_batch_size = "many"
    def infer_batch(self, observations): ...

class Sees:
    @property
    def sees_timestamps(self):
        raise RuntimeError("no clock")
    def infer(self, observation): ...
"""
WAYS: dict[str, Callable[[Any], Any]] = {
    "thread": lambda target: ModelLoader(lambda: load_target(target, {})),
    "inline": lambda target: ModelLoader(lambda: load_target(target, {}), inline=True),
}


@pytest.fixture
def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """`ways("name")`: a model in each of the three ways, by their names."""
    process = models_of(MODELS, "ways", tmp_path, monkeypatch)
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(name: str) -> dict[str, Any]:
        spec = process(name)
        return {"process": spec, **{way: make(spec.target) for way, make in WAYS.items()}}

    return made


OUTCOMES = {
    "base": "ModelFailed Base: Base: b",
    "exit": "ModelFailed SystemExit: SystemExit: 3",
    "interrupt": "ModelFailed KeyboardInterrupt: KeyboardInterrupt",
    "cancelled": "ModelFailed CancelledError: CancelledError: c",
    "stop": "ModelFailed StopIteration: StopIteration: 3",
    "timeout": "ModelFailed TimeoutError: TimeoutError: t",
    "connection": "ModelFailed ConnectionResetError: ConnectionResetError: c",
    "invalid": "InvalidObservation model: bad",
    "invalid by error": "InvalidObservation model: bad light",
    "invalid by number": "InvalidObservation model: 5",
    "invalid by class": "InvalidObservation model: 2",
    "invalid unreadable": "InvalidObservation model: its reason cannot be read: RuntimeError",
    "text": "[2.0] fine",
    "taken out": "[2.0]",
}


@pytest.mark.parametrize("way", ["process", "thread", "inline"])
@pytest.mark.parametrize("name", ["act", "Batch"])
async def test_a_policy_gives_the_same_in_each_way(name: str, way: str, serving: Serving, ways: Any) -> None:
    server, _ = await serving(**{way: ways(name)[way]})
    got: dict[str, str] = {}
    async with load(server, way, robots=3) as ends, robot(server, way) as model:
        for what in OUTCOMES:
            try:
                result = await model.infer(timeout_ms=20_000, state=np.full(1, 2.0), do=what)
            except InferenceError as error:
                got[what] = f"{type(error).__name__} {error.cause}: {error.reason}"
            else:
                said = {} if result is None else result
                got[what] = " ".join([str(said["actions"].tolist()), *filter(None, [said.get("note")])])
    assert got == OUTCOMES
    assert ends["asked"] == ends["answered"]


@pytest.mark.parametrize("way", ["process", "thread", "inline"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Sized", "max_batch_size: expected a whole number above 0, got 'many'"),
        ("Sees", "RuntimeError: no clock"),
    ],
)
async def test_what_is_no_model_is_refused_in_the_same_words(name: str, text: str, way: str, ways: Any) -> None:
    dispatcher = LocalDispatcher({"m": ways(name)[way]})
    with pytest.raises(ModelLoadError, match=rf"^model 'm'(, target '\S+')?: {text}$"):
        async with asyncio.timeout(60):
            await dispatcher.start()
    await dispatcher.close()


@pytest.mark.parametrize("wrap", [ModelThread, ModelInline])
async def test_a_batch_that_fails_by_a_time_out_of_its_own_is_run_row_by_row(wrap: Any, serving: Serving) -> None:
    class Solver:
        max_batch_size = 8

        def infer_batch(self, observations: list[Any]) -> list[Any]:
            if any(one["state"][0] < 0 for one in observations):
                raise TimeoutError("no solution")
            return [one["state"] for one in observations]

    server, _ = await serving(m=wrap(Solver()))
    async with load(server, "m", robots=4) as ends, robot(server, "m") as model:
        for _ in range(20):
            with pytest.raises(InferenceError, match="no solution"):
                await model.infer(timeout_ms=20_000, state=np.full(1, -1.0))
            await asyncio.sleep(0)
    assert ends["asked"] == ends["answered"]
