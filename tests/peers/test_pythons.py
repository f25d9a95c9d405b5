"""Robots and workers on the Pythons that robots have, each with the oldest numpy and protobuf that it may have."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.environments import made, pip
from tests.peers.pythons import interpreter
from tests.wheels import build_wheel

from inferential import Connection, LocalDispatcher, ModelProcess, Server

# The oldest that the project allows, or that has a wheel for that Python.
OLDEST = {
    "3.10": ("numpy==1.26.0", "protobuf==6.31.1"),
    "3.12": ("numpy==1.26.0", "protobuf==6.31.1"),
    "3.13": ("numpy==2.1.0", "protobuf==6.31.1"),
}

ROBOT = """
import asyncio, json, sys, time
import numpy as np
import inferential
from inferential import AsyncConnection, Connection, InvalidObservation, UnknownModel
from inferential.client.chunks import ChunkRuntime

address = sys.argv[1]
seen = {"python": "%d.%d" % sys.version_info[:2], "numpy": np.__version__, "from": inferential.__file__, "errors": []}
with Connection(address, client_id="robot", client_type="arm") as connection:
    model = connection.model("double")
    model.observe(state=np.arange(4, dtype=np.float32), note="go", observation={"nested": {"a": [1, 2.5, None]}})
    result = model.get_result(timeout_ms=60_000)
    seen["double"] = result["actions"].tolist()
    large = np.arange(200_000, dtype=np.uint8).reshape(400, 500)
    echo = connection.model("echo")
    answer = echo.infer(camera=large, timeout_ms=60_000)
    seen["echo"] = bool((answer["camera"] == large).all())
    for name, values in (("nothing", {"state": np.ones(2)}), ("broken", {"state": np.ones(2)})):
        try:
            connection.model(name).infer(timeout_ms=60_000, **values)
        except inferential.InferenceError as error:
            seen["errors"].append(type(error).__name__)
    seen["link"] = connection.stats.link_round_trip_ms is not None

    runtime = ChunkRuntime(connection.model("chunk"), control_rate_hz=50.0)
    seen["chunk"] = None
    until = time.monotonic() + 60
    while seen["chunk"] is None and time.monotonic() < until:
        action = runtime.step({"state": np.zeros(2, dtype=np.float32)})
        if action is not None:
            seen["chunk"] = np.asarray(action).tolist()
        time.sleep(0.02)


async def main():
    async with AsyncConnection(address, client_id="robot-aio") as connection:
        model = connection.model("double")
        await model.observe(state=np.full(2, 21, dtype=np.float64))
        seen["async"] = (await model.get_result(timeout_ms=60_000))["actions"].tolist()
        try:
            await connection.model("nothing").infer(state=np.ones(1), timeout_ms=60_000)
        except UnknownModel:
            seen["errors"].append("async")


asyncio.run(main())
print(json.dumps(seen))
"""

WORKER = """
import sys
import numpy as np

def where(observation):
    return {"actions": observation["state"] + 1, "python": "%d.%d" % sys.version_info[:2], "numpy": np.__version__}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("build"))


def found(version: str) -> str:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"this machine has no Python {version}")
    return python


def bare() -> dict[str, str]:
    """The environment of a program that has the installed package, not these sources."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module", params=sorted(OLDEST))
def installed(request: pytest.FixtureRequest, wheel: Path) -> Path:
    """An interpreter with the wheel, without extras, and the oldest packages."""
    python = made(f"oldest-{request.param}", *OLDEST[request.param], interpreter=found(request.param))
    pip(python, "install", "--quiet", "--force-reinstall", "--no-deps", "--no-index", str(wheel))
    pip(python, "check")
    return python


def chunk(observation: dict[str, Any]) -> dict[str, Any]:
    return {"actions": np.full((10, 2), 0.5, dtype=np.float32)}


def broken(observation: dict[str, Any]) -> None:
    raise RuntimeError("always")


async def run(python: Path, program: str, *args: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        python, "-W", "error", "-c", program, *args, stdout=-1, stderr=-1, env=bare(), cwd="/"
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.peer
@pytest.mark.slow
async def test_robots_and_workers_of_that_python_work_with_this_server(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models_of_old.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    models: dict[str, Any] = {
        "double": lambda seen: {"actions": seen["state"] * 2},
        "echo": lambda seen: {"camera": seen["camera"]},
        "chunk": chunk,
        "broken": broken,
        "where": ModelProcess("models_of_old:where", python=installed),
    }
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server:
        code, out, err = await run(installed, ROBOT, server.address)
        assert code == 0, err
        await server.model_ready("where")
        with Connection(server.address) as connection:
            model = connection.model("where")
            answer = await asyncio.to_thread(lambda: model.infer(state=np.zeros(20_000), timeout_ms=60_000))
    version = installed.parents[1].name.removeprefix("oldest-")
    numpy_version = OLDEST[version][0].removeprefix("numpy==")
    robot = json.loads(out)
    assert Path(robot.pop("from")).is_relative_to(installed.parents[1])
    assert robot == {
        "python": version,
        "numpy": numpy_version,
        "double": [0.0, 2.0, 4.0, 6.0],
        "echo": True,
        "errors": ["UnknownModel", "ModelFailed", "async"],
        "link": True,
        "chunk": [0.5, 0.5],
        "async": [42.0, 42.0],
    }
    assert (answer["python"], answer["numpy"]) == (version, numpy_version)
    assert answer["actions"][0] == 1.0


SERVER_PARTS = (
    "from inferential import Server",
    "from inferential import LocalDispatcher, register_policy",
    "import inferential.cli.main",
    "import inferential.config",
    "import inferential.gateway",
    "import inferential.recording",
    "import inferential.dispatch.ray",
    "import inferential.cluster",
)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("installed", ["3.10"], indirect=True)
def test_the_server_names_the_python_that_it_needs(installed: Path) -> None:
    program = f"""
import json
said = []
for part in {SERVER_PARTS!r}:
    try:
        exec(part)
    except ImportError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    done = subprocess.run([installed, "-c", program], capture_output=True, text=True, check=True, env=bare(), cwd="/")
    said = json.loads(done.stdout)
    assert len(said) == len(SERVER_PARTS)
    for line in said:
        assert "needs Python 3.11 or newer, this is 3.10." in line
    inferential = [installed.parent / "inferential", "--help"]
    command = subprocess.run(inferential, capture_output=True, text=True, check=False, env=bare(), cwd="/")
    assert command.returncode
    assert "needs Python 3.11 or newer" in command.stderr.splitlines()[-1]
