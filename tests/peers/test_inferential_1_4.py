"""The released 1.4.0 and this line understand each other on the wire, both ways."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inferential import AsyncConnection, Connection, LocalDispatcher, Server

pytestmark = pytest.mark.peer
WAIT_MS = 60_000

CLIENT = """
import asyncio, json, sys
import numpy as np
from importlib.metadata import version
from inferential import AsyncConnection, Connection

assert version("inferential") == "1.4.0"  # its own __version__ says 0.1.0
address = sys.argv[1]
report = {"results": [], "metadata": [], "dtypes": []}
connection = Connection(server=address, client_id="old-1", client_type="arm")
model, other = connection.model("double"), connection.model("echo")
for n in range(20):  # every observation is answered, though none is waited for before the next
    model.observe(urgency=0.5, steps_remaining=3, state=np.full(4, n, dtype=np.float32))
for n in range(20):
    result = model.get_result(timeout_ms=60_000)
    report["results"].append(float(result["actions"][0]))
for dtype in ("float16", "float32", "float64", "uint8", "int32", "int64", "bool"):
    other.observe(value=np.arange(6).reshape(2, 3).astype(dtype), prompt="go")
    result = other.get_result(timeout_ms=60_000)
    report["dtypes"].append([str(result["value"].dtype), list(result["value"].shape)])
    report["metadata"].append(result["prompt"])
connection.model("broken").observe(state=np.zeros(1))
report["broken"] = connection.model("broken").get_result(timeout_ms=300)
connection.close()

async def main():
    async with AsyncConnection(server=address, client_id="old-2") as connection:
        model = connection.model("double")
        await model.observe(state=np.full(4, 21, dtype=np.float32))
        result = await model.get_result(timeout_ms=60_000)
        report["async"] = float(result["actions"][0])

asyncio.run(main())
print(json.dumps(report))
"""

SERVER = """
import asyncio, sys
from importlib.metadata import version
from inferential import LocalDispatcher, Server

assert version("inferential") == "1.4.0"  # its own __version__ says 0.1.0
models = {"double": lambda obs: obs["state"] * 2, "echo": lambda obs: obs}
asyncio.run(Server(bind=sys.argv[1], dispatcher=LocalDispatcher(models)).run())
"""


def broken(observation: dict[str, object]) -> None:
    raise RuntimeError("always")


async def test_a_client_of_1_4_0_works_against_our_server(inferential_1_4: Path) -> None:
    models = {"double": lambda obs: obs["state"] * 2, "echo": lambda obs: obs, "broken": broken}
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server:
        process = await asyncio.create_subprocess_exec(
            inferential_1_4, "-c", CLIENT, server.address, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode == 0
        clients = server.metrics.get_stats("responses_served")
    outcome = json.loads(out)
    assert outcome["results"] == [2.0 * n for n in range(20)]
    assert outcome["async"] == 42.0
    assert outcome["metadata"] == ["go"] * 7
    assert outcome["dtypes"] == [
        [dtype, [2, 3]] for dtype in ("float16", "float32", "float64", "uint8", "int32", "int64", "bool")
    ]
    assert outcome["broken"] is None  # it is never sent what it would take for a result
    assert clients is not None
    assert clients.count == 28


@pytest.fixture
def old_server(inferential_1_4: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen([inferential_1_4, "-c", SERVER, address])
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def test_our_client_works_against_a_server_of_1_4_0(old_server: str) -> None:
    with Connection(old_server, client_id="new-1", client_type="arm", reconnect_ivl_ms=20) as connection:
        double, echo = connection.model("double", queue="all"), connection.model("echo")
        for n in range(20):
            request_id = double.observe(urgency=0.5, steps_remaining=3, state=np.full(4, n, dtype=np.float32))
            result = double.get_result(WAIT_MS)
            assert result is not None
            assert result["actions"][0] == 2.0 * n
            assert result.request_id == request_id
            assert result.timing is None
        for n in range(20):
            double.observe(state=np.full(4, n, dtype=np.float32))
        answers = [double.get_result(WAIT_MS) for _ in range(20)]
        # That server may answer in another order than it was asked in, and does not say which answer is whose.
        assert sorted(answer["actions"][0] for answer in answers if answer is not None) == [2.0 * n for n in range(20)]
        result = echo.infer(WAIT_MS, value=np.arange(6, dtype=np.int32).reshape(2, 3), prompt="go")
        assert result is not None
        np.testing.assert_array_equal(result["value"], np.arange(6).reshape(2, 3))
        assert result["prompt"] == "go"


def test_our_asyncio_client_works_against_a_server_of_1_4_0(old_server: str) -> None:
    async def main() -> None:
        async with AsyncConnection(old_server, client_id="new-2", reconnect_ivl_ms=20) as connection:
            result = await connection.model("double").infer(WAIT_MS, state=np.full(4, 21, dtype=np.float32))
            assert result is not None
            assert result["actions"][0] == 42.0

    asyncio.run(main())
