"""The same fleet over Inferential 1.4.0: run by the interpreter of an environment that has it.

    .venv/peers/inferential-1.4.0-robots/bin/python bench/closed_loop/peers/with_inferential_1_4.py

takes a plan as JSON on standard input and prints its summary. Robots, policies, accelerator and accounting are this
repository's, loaded from its files; server and clients are 1.4.0's. It imports nothing else of this repository.

1.4.0 is used at its best: models are coroutines, so that its loop goes on receiving, and each model has a loop of its
own (`pipeline_dispatch`). It has no batches: a model is called with one observation. What an answer belongs to is not
given by 1.4.0; the models here hand back the observation's time, as strings, which only the accounting reads.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

assert version("inferential") == "1.4.0"
OURS = Path(__file__).parents[3] / "src" / "inferential"


def lend(name: str, file: Path, *folders: Path) -> None:
    """Gives the released package a module of this one that it does not have: the robots, and what they import."""
    if name in sys.modules:
        return  # processes of the fleet import this file first, before what they are to run is looked up
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=list(map(str, folders)) or None
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


lend("inferential.errors", OURS / "errors.py")
lend("inferential.dtype_names", OURS / "dtype_names.py")
lend("inferential.policies", OURS / "policies" / "__init__.py", OURS / "policies")
lend("inferential.sim", OURS / "sim" / "__init__.py", OURS / "sim")

from inferential import AsyncConnection, LocalDispatcher, Server  # noqa: E402
from inferential.config.schema import InferentialConfig  # noqa: E402
from inferential.sim.accelerator import AcceleratedModel  # noqa: E402
from inferential.sim.fleet import Plan, run  # noqa: E402
from inferential.sim.link import Served, Software  # noqa: E402
from inferential.sim.robots import Observation, Robot  # noqa: E402
from inferential.sim.watch import Watch  # noqa: E402

OBSERVED = "observed_at"


class PeerLink:
    """The asyncio client of 1.4.0."""

    def __init__(self, robot: Robot, name: str, server: str) -> None:
        self._connection = AsyncConnection(server, name, robot.kind, reconnect_ivl_ms=20)
        self._model = self._connection.model(robot.model_id, latency_budget_ms=robot.deadline_ms)

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._connection.__aexit__(*error)

    async def observe(self, observation: Observation) -> None:
        """Sends it with its time."""
        await self._model.observe(**observation, **{OBSERVED: repr(time.monotonic())})

    async def receive(self) -> tuple[float, Any] | None:
        """The next answer, in the order in which they come."""
        result = await self._model.get_result(timeout_ms=1000)
        return None if result is None else (float(result[OBSERVED]), np.asarray(result["actions"]))


@asynccontextmanager
async def serve(strategy: str, models: dict[str, AcceleratedModel]) -> AsyncIterator[tuple[str, Served]]:
    """The server of 1.4.0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    config = InferentialConfig.model_validate(
        {
            "transport": {"bind": address},
            "scheduling": {"strategy": strategy, "pipeline_dispatch": {"enabled": True}},
            "models": {"default_max_inflight": 1},
        }
    )

    def called(model: AcceleratedModel) -> Any:
        async def infer(observation: dict[str, Any]) -> dict[str, Any]:
            (result,) = await asyncio.to_thread(model.infer_batch, [observation])
            return {**result, OBSERVED: observation[OBSERVED]}

        return infer

    dispatcher = LocalDispatcher({model_id: called(model) for model_id, model in models.items()})
    server = Server(config=config, dispatcher=dispatcher)
    served = Served(waiting=lambda: server._scheduler.queue_len())

    def count(name: str, value: float, labels: dict[str, str]) -> None:
        if name == "inference_latency_ms":
            served.counts["responses_served"] += 1
            served.batches.append(1)

    server.on_metric(count)
    running = asyncio.create_task(server.run())
    try:
        while server._transport is None:  # noqa: ASYNC110 - it has no event for when it listens
            await asyncio.sleep(0.01)
        yield address, served
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


if __name__ == "__main__":
    watch = Watch(Plan(**json.load(sys.stdin)))
    for reports in run(watch.plan, Software(serve, PeerLink)):
        watch.take(reports)
    print(json.dumps(watch.summary()))
