"""Robots over LitServe: a POST for each observation, one worker, its batching."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from robots import AskingLink, HttpLink, add_package, main, served_by

add_package()

import numpy as np  # noqa: E402

from inferential.sim.link import Served, Software  # noqa: E402


def link(robot: Any, name: str, server: str) -> AskingLink:
    """A robot's connection."""
    return HttpLink(robot.model_id, server, "/predict")


async def probe(address: str) -> None:
    """Asks once."""
    one = HttpLink("", address, "/predict")
    await one.connect()
    try:
        await one.ask({"x": np.zeros(1)})
    finally:
        await one.disconnect()


@asynccontextmanager
async def serve(strategy: str, models: dict[str, Any]) -> AsyncIterator[tuple[str, Served]]:
    """LitServe in its own processes."""
    async with served_by("litserve_server.py", models, probe) as address:
        yield address, Served()


if __name__ == "__main__":
    main(Software(serve, link))
