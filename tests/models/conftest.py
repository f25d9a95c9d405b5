"""Servers whose models follow a configuration, as `inferential serve` has them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.cli.targets import model_later
from inferential.config import InferentialConfig

POLICIES = """
import os, time
import numpy as np

class Policy:
    max_batch_size = 4
    def __init__(self, name="", scale=1.0, fails="", slow_s=0.0, go="", dies=False, hangs=""):
        while go and not os.path.exists(go):
            time.sleep(0.01)
        self.name, self.scale, self.fails, self.slow_s, self.dies = name, scale, fails, slow_s, dies
        self.hangs = hangs
    def infer_batch(self, rows):
        time.sleep(self.slow_s)
        while self.hangs and os.path.exists(self.hangs):
            time.sleep(0.01)
        if self.dies:
            os._exit(3)
        if self.fails and os.path.exists(self.fails):
            raise RuntimeError(f"{self.fails} is there")
        return [{"actions": row["state"] * self.scale, "name": self.name} for row in rows]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delitem(sys.modules, "policies", raising=False)  # of a test elsewhere, whose file does not change
    (tmp_path / "policies.py").write_text(POLICIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("policies", None)


def settings(**known: Any) -> InferentialConfig:
    return InferentialConfig.model_validate(
        {"server": {"ready_wait_s": 30.0}, "scheduling": {"request_ttl_ms": 30_000}, "models": {"known": known}}
    )


def policy(**args: Any) -> dict[str, Any]:
    return {"target": "policies:Policy", "args": args}


def two(**more: Any) -> dict[str, Any]:
    """A model with the versions a, which is active, and b."""
    return {"versions": {"a": policy(name="a"), "b": policy(name="b", scale=2.0)}, "active": "a", **more}


Serve = Callable[..., Any]


@pytest.fixture
async def serve(place: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(config: InferentialConfig | None = None, **known: Any) -> Server:
            found = settings(**known) if config is None else config
            server = Server("tcp://127.0.0.1:0", config=found, dispatcher=LocalDispatcher({}))
            server.manage_models(model_later)
            return await stack.enter_async_context(server)

        yield start


async def ask(
    server: Server, client_id: str = "arm", model_id: str = "m", client_type: str = "", **options: Any
) -> Any:
    async with AsyncConnection(server.address, client_id, client_type) as connection:
        model = connection.model(model_id, 60_000.0, **options)
        return await model.infer(60_000, state=np.ones(2, np.float32))


async def until(what: Callable[[], Any], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():  # noqa: ASYNC110 (of another process)
            await asyncio.sleep(0.01)
