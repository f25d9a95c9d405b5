"""Ray Serve with the robots' policies; `served_by` runs it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import ray
from ray import serve
from robots import MAX_BATCH_SIZE, Models, add_package, unpack
from starlette.requests import Request
from starlette.responses import Response


class Policies:
    """All policies; batches of different models are run one after another, in a thread."""

    def __init__(self, cost: dict[str, float]) -> None:
        add_package()
        self._models = Models(cost)
        # It closes a batch by this time-out, though the one before still runs: with a short one rows go alone.
        infer: Any = self.infer
        infer.set_batch_wait_timeout_s(cost["fixed_ms"] / 1e3)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE)
    async def infer(self, asked: list[Any]) -> list[bytes]:
        """Returns actions; an unknown model is the probe's."""
        actions = iter(await asyncio.to_thread(self._models.infer_batch, [each for each in asked if each[0]]))
        return [next(actions) if each[0] else b"" for each in asked]

    async def __call__(self, request: Request) -> Response:
        """Answers a POST."""
        return Response(await self.infer(unpack(await request.body())), media_type="application/octet-stream")


if __name__ == "__main__":
    cost = json.loads(sys.stdin.readline())
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = os.pathsep.join((here, os.environ.get("PYTHONPATH", "")))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config={"log_level": "ERROR"})
    serve.run(serve.deployment(max_ongoing_requests=64)(Policies).bind(cost))
    while True:
        time.sleep(3600)
