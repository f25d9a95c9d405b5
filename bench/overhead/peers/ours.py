"""This repository: the client SDK for threads, and a server whose model answers at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = Path(__file__).parents[1] / "models"
"""Folder of `plain_policies`."""


def version() -> str:
    """Of the package."""
    return f"inferential {metadata.version('inferential')}"


class Model:
    """A batch of coroutines without `await`."""

    max_batch_size = 8
    action = np.zeros(16, dtype=np.float32)

    async def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """The same action for all."""
        return [self.action] * len(observations)


def model_of(kind: str) -> Any:
    """Returns a model: `coroutine`, or one of `plain_policies` and where it runs, as `function_process`."""
    from inferential import ModelInline, ModelProcess, ModelThread

    if kind == "coroutine":
        return Model()
    form, _, place = kind.partition("_")
    name = {"function": "policy", "batch": "BatchPolicy"}[form]
    if place == "process":
        return ModelProcess(f"plain_policies:{name}", env={"PYTHONPATH": str(PLAIN)})
    sys.path.append(str(PLAIN))
    import plain_policies

    found = getattr(plain_policies, name)
    return {"thread": ModelThread, "inline": ModelInline}[place](found() if form == "batch" else found)


def serve(ready: Callable[[str], None], kind: str = "coroutine") -> None:
    """Serves until standard input ends."""
    from inferential import LocalDispatcher, Server

    async def main() -> None:
        server = Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"policy": model_of(kind)}))
        running = asyncio.create_task(server.run())
        while not server.running:  # noqa: ASYNC110 (it does not say when it listens)
            await asyncio.sleep(0.01)
        await server.model_ready("policy")
        ready(server.address)
        await asyncio.to_thread(sys.stdin.read)
        server.stop()
        await running

    asyncio.run(main())


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """One connection; read-only arrays are sent from their own memory."""
    from inferential import Connection

    for array in observation.values():
        array.setflags(write=False)
    model = Connection(address).model("policy", queue="all")

    def ask() -> Any:
        result = model.infer(10_000, **observation)
        if result is None:
            raise TimeoutError("no answer within 10 s")
        return result

    return ask
