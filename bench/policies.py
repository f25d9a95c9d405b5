"""Policies from files behind the scheduler, beside calling them directly in a loop: batched rows per second.

16 robots ask an ONNX policy whose batch of 8 takes about 5 ms, as fast as they are answered. Beside it: onnxruntime
called in a loop with batches of 8 of the same rows, in a process of its own. Both use one thread for the model, and
take turns.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from bench.harness import serving
from inferential import AsyncConnection, ModelProcess
from inferential.policies.onnx import BatchedOnnxPolicy, open_onnx

ROBOTS = 16
BATCH = 8
_WANTED_MS = 5.0
_TURNS = 4
_INPUT, _ACTIONS = 64, 32
_OPTIONS = {"threads": 1, "max_batch_size": BATCH}


def run(seconds: float) -> dict[str, Any]:
    """Rows per second of both; `seconds` for each, over all turns."""
    with tempfile.TemporaryDirectory() as folder:
        path, batch_ms = _sized_policy(Path(folder))
        ours: list[float] = []
        direct: list[float] = []
        for _ in range(_TURNS):
            direct.append(_in_a_process(path, seconds / _TURNS))
            with serving(_Models(path)) as address:
                ours.append(asyncio.run(_robots(address, seconds / _TURNS)))
    return {
        "robots": ROBOTS,
        "batch_of_8_ms": round(batch_ms, 2),
        "onnxruntime_rows_per_s": round(statistics.median(direct)),
        "served_rows_per_s": round(statistics.median(ours)),
        "share": round(statistics.median(ours) / statistics.median(direct), 3),
        "onnxruntime_turns": [round(one) for one in direct],
        "served_turns": [round(one) for one in ours],
    }


class _Models:
    """Makes the models in the server's process; a function within a function cannot be sent there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> dict[str, Any]:
        return {"arm": ModelProcess(f"onnx:{self._path}", args=_OPTIONS)}


def _sized_policy(folder: Path) -> tuple[Path, float]:
    """Writes a network of so many layers that a batch of 8 takes about 5 ms here; returns its file and that time."""
    layers = 4
    while True:
        path = _write(folder / f"layers-{layers}.onnx", layers)
        batch_ms = _batch_ms(path)
        if batch_ms >= 0.8 * _WANTED_MS or layers > 400:
            return path, batch_ms
        layers = max(layers + 1, round(layers * _WANTED_MS / batch_ms))


def _write(path: Path, layers: int, width: int = 512) -> Path:
    chance = np.random.default_rng(0)
    nodes, weights, value, size = [], [], "state", _INPUT
    for number in range(layers):
        out = _ACTIONS if number == layers - 1 else width
        weight = chance.normal(0, size**-0.5, (size, out)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [f"t{number}"]))
        value, size = f"t{number}", out
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [value], ["actions"])],
        "policy",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["robots", _INPUT])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["robots", _ACTIONS])],
        weights,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def _batch_ms(path: Path) -> float:
    policy = open_onnx(str(path), **_OPTIONS)
    assert isinstance(policy, BatchedOnnxPolicy)
    rows = [{"state": np.ones(_INPUT, np.float32)}] * BATCH
    took = []
    for _ in range(15):
        began = time.perf_counter()
        policy.infer_batch(rows)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def _in_a_process(path: Path, seconds: float) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_direct, (path, seconds))


def _direct(path: Path, seconds: float) -> float:
    """Returns rows per second of onnxruntime alone: the session, without this package around it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batch = np.ones((BATCH, _INPUT), np.float32)
    for _ in range(5):
        session.run(None, {"state": batch})
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        session.run(None, {"state": batch})
        calls += 1
    return calls * BATCH / (time.perf_counter() - began)


async def _robots(address: str, seconds: float) -> float:
    answered = 0
    is_counted = False

    async def robot(number: int) -> None:
        nonlocal answered
        async with AsyncConnection(address, f"robot-{number}") as connection:
            model = connection.model("arm", latency_budget_ms=100)
            state = np.full(_INPUT, number, np.float32)
            while True:
                if await model.infer(5000, state=state) is not None and is_counted:
                    answered += 1

    robots = [asyncio.create_task(robot(number)) for number in range(ROBOTS)]
    await asyncio.sleep(1.0)  # connected, and the profile learned
    is_counted, began = True, time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    is_counted = False
    for one in robots:
        one.cancel()
    await asyncio.gather(*robots, return_exceptions=True)
    return answered / took
