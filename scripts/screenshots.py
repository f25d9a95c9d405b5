"""Draws docs/images/page-*.png: the live page before a fleet of robots with three models, in a real browser.

.venv/bin/python scripts/screenshots.py
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.web.browser import Browser  # noqa: E402

from inferential import AsyncConnection, InferenceError, LocalDispatcher, Server  # noqa: E402
from inferential.config.services import HttpConfig  # noqa: E402
from inferential.sim.network import EmulatedNetwork, NetworkProfile  # noqa: E402
from inferential.web import HttpServer  # noqa: E402

SHOTS = (
    ("light", "", {"scheme": "light", "width": 1280, "height": 860}),
    ("dark", "", {"scheme": "dark", "width": 1280, "height": 860}),
    ("phone", "", {"scheme": "light", "width": 375, "height": 760}),
    ("robot", "arm-03", {"scheme": "light", "width": 1280, "height": 860}),
)
"""Name of the picture, the robot that is opened in it, and the browser's window."""
FLEET = (("humanoid", "pi0", 8, 50.0, 12), ("arm", "act", 10, 30.0, 6), ("rover", "vlm", 4, 4.0, 1))
"""Kind, model, robots, control rate in Hz, and control periods between observations."""
SLOW = {"arm-03": NetworkProfile(rtt_ms=140.0, jitter_ms=100.0)}
"""Robots whose network takes 20 to 120 ms each way."""


class Policy:
    """Takes a while, and a little longer for more rows."""

    def __init__(self, rows: int, base_ms: float, row_ms: float) -> None:
        self.max_batch_size = rows
        self._base_ms, self._row_ms = base_ms, row_ms

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """A chunk for each."""
        time.sleep((self._base_ms + self._row_ms * len(observations)) / 1e3)
        return [{"actions": np.zeros((20, 7), np.float32)} for _ in observations]


@contextlib.asynccontextmanager
async def network(address: str, name: str) -> AsyncIterator[str]:
    """Yields the address by which a robot reaches the server."""
    if name not in SLOW:
        yield address
        return
    async with EmulatedNetwork(address, SLOW[name]) as slow:
        yield slow.address


async def robot(address: str, name: str, kind: str, model_id: str, rate_hz: float, every: int, stop: float) -> None:
    """Observes every so many control periods, until it stops."""
    async with network(address, name) as reached, AsyncConnection(reached, name, kind) as connection:
        model = connection.model(model_id, control_rate_hz=rate_hz)
        await asyncio.sleep(np.random.default_rng(hash(name) % 1000).uniform(0, every / rate_hz))
        while time.monotonic() < stop:
            began = time.monotonic()
            try:
                await model.infer(1000, steps_remaining=every, state=np.zeros(7, np.float32))
            except InferenceError as error:
                print(error)
            await asyncio.sleep(max(every / rate_hz - (time.monotonic() - began), 0))


async def main() -> None:
    """Serves, drives and photographs."""
    models = {"pi0": [Policy(8, 40, 4), Policy(8, 46, 4)], "act": Policy(8, 9, 1.5), "vlm": Policy(1, 120, 0)}
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        HttpServer(server, HttpConfig(port=0)) as page,
    ):
        now = time.monotonic()
        drivers = [
            asyncio.create_task(
                robot(server.address, f"{kind}-{number:02}", kind, model_id, rate, every, now + (120 if number else 9))
            )
            for kind, model_id, count, rate, every in FLEET
            for number in range(count)
        ]
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def photograph() -> None:
            try:
                take_all()
            finally:
                loop.call_soon_threadsafe(done.set)

        def take_all() -> None:
            with Browser() as browser:
                time.sleep(10)  # until the first of each kind is overdue
                for name, opened, options in SHOTS:
                    browser.open(page.address, **options)
                    time.sleep(6)  # of the calls before it was open the timeline has some
                    if opened:
                        row = f"[...document.querySelectorAll('.opens')].find((one) => one.textContent === '{opened}')"
                        browser.evaluate(f"{row}.click(), {row}.closest('tr').scrollIntoView({{block: 'start'}}); true")
                        browser.wait("document.querySelectorAll('.answers tbody tr').length > 5")
                    browser.do("screenshot", path=str(ROOT / "docs" / "images" / f"page-{name}.png"))

        threading.Thread(target=photograph).start()
        await done.wait()
        for driver in drivers:
            driver.cancel()
        await asyncio.gather(*drivers, return_exceptions=True)


asyncio.run(main())
