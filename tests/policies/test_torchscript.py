"""A TorchScript file as a model, behind a server, with the real torch."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.policies import peers

from inferential import AsyncConnection, InvalidObservation, LocalDispatcher, ModelProcess, Server

WRITE = """
import json, sys, torch

class Reach(torch.nn.Module):
    def forward(self, state, goal):
        return (goal - state) * 0.5

class Two(torch.nn.Module):
    def forward(self, state):
        return state + 1, state.sum(dim=1, keepdim=True)

torch.jit.save(torch.jit.script(Reach()), sys.argv[1] + "/reach.pt")
torch.jit.save(torch.jit.script(Two()), sys.argv[1] + "/two.pt")
print(json.dumps(torch.__version__))
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    found = peers.interpreter("torch")
    peers.run(found, WRITE, str(tmp_path))
    return found


async def test_robots_share_calls_and_get_each_their_row(python: str, tmp_path: Path) -> None:
    inputs = {"state": {"dtype": "float32", "shape": [2]}, "goal": {"dtype": "float32", "shape": [2]}}
    models = {
        "reach": ModelProcess(f"torchscript:{tmp_path}/reach.pt", args={"inputs": inputs}, python=python),
        "two": ModelProcess(f"torchscript:{tmp_path}/two.pt", args={"outputs": ["arm", "sum"]}, python=python),
        "free": ModelProcess(f"torchscript:{tmp_path}/two.pt", python=python),
    }
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        AsyncConnection(server.address) as connection,
    ):
        for model_id in models:
            await server.model_ready(model_id)
        reach = connection.model("reach", queue="all")
        rows = await asyncio.gather(
            *(reach.infer(20_000, state=np.full(2, n, ">f8"), goal=np.full(2, 8)) for n in range(4))
        )
        assert [row and row["actions"].tolist() for row in rows] == [[(8 - n) / 2] * 2 for n in range(4)]
        with pytest.raises(InvalidObservation, match=r"'goal': expected float32 \[2\], got float64 \[3\]"):
            await reach.infer(20_000, state=np.ones(2), goal=np.ones(3))
        two = await connection.model("two").infer(20_000, state=np.arange(3, dtype=np.float32))
        assert two is not None
        assert (two["arm"].tolist(), two["sum"].tolist()) == ([1, 2, 3], [3])
        free = await connection.model("free").infer(20_000, state=np.arange(3, dtype=np.float32))
        assert free is not None
        assert free["output_0"].tolist() == [1, 2, 3]
