"""The endpoint of a replica and its registration, without Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq

pytest.importorskip("ray")

from tests.dispatch.ray.test_endpoint import row

import inferential.replica.deployment
from inferential.dispatch.base import ReplicaLost
from inferential.dispatch.ray.link import Link
from inferential.replica import ONGOING, direct


class Registry:
    """What a replica knows of the registry; `ray.get` gives what its methods give."""

    def __init__(self) -> None:
        self.registered, self.removed = 0, 0
        self.register = SimpleNamespace(remote=self._register)
        self.remove = SimpleNamespace(remote=self._remove)
        self.failures: list[Exception] = []
        self.listed: Any = None

    def __call__(self) -> Registry:
        if self.failures:
            raise self.failures.pop()
        return self

    def _register(self, listed: Any) -> str:
        self.registered += 1
        self.listed = listed
        if self.failures:
            raise self.failures.pop()
        return "key"

    def _remove(self, replica: str) -> None:
        self.removed += 1


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, short_path: Any) -> Registry:
    registry = Registry()
    context = SimpleNamespace(app_name="app", deployment="Policy", replica_tag="r1", code_version="abc")
    monkeypatch.setattr(inferential.replica.deployment, "registry", registry)
    monkeypatch.setattr(inferential.replica.deployment, "REGISTER_EVERY_S", 0.001)
    monkeypatch.setattr("inferential.replica.deployment.serve.get_replica_context", lambda: context)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get", lambda value, timeout: value)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(short_path))
    return registry


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_replica_registers_again_whatever_kept_it_from_it(registry: Registry) -> None:
    model = direct(type("Policy", (), {"infer": lambda self, observation: observation}))()
    try:
        registry.failures = [OSError("no head"), RuntimeError("no such actor"), ValueError("anything")]
        until(lambda: not registry.failures)
        count = registry.registered
        until(lambda: registry.registered > count + 2)
    finally:
        model.__del__()
    assert registry.removed == 1


async def test_a_replica_whose_call_hangs_takes_no_more_and_is_unhealthy_until_it_is_replaced(
    registry: Registry,
) -> None:
    entered, may_end = threading.Event(), threading.Event()

    @direct(hangs_after_s=0.0)
    class Hangs:
        def infer(self, observation: Any) -> None:
            entered.set()
            may_end.wait(60)

    context, up = zmq.Context[Any](), asyncio.Event()
    model: Any = Hangs()
    until(lambda: registry.listed is not None)
    link = Link(context, "r1", registry.listed.addresses.ipc, "", ("", ""), lambda link: up.set())
    try:
        await model.check_health()
        async with asyncio.timeout(60):
            await up.wait()
        calling = asyncio.create_task(link.call([row(state=np.ones(1))], 0))
        assert await asyncio.to_thread(entered.wait, 60)
        with pytest.raises(RuntimeError, match=r"more than hangs_after_s"):
            await model.check_health()
        assert registry.removed == 1
        with pytest.raises(RuntimeError, match=r"endpoint has ended"):
            await model.check_health()
        link.close()
        with pytest.raises(ReplicaLost):
            await calling
    finally:
        may_end.set()
        link.close()
        context.term()


def test_hooks_of_the_class_itself_are_called_too_be_they_sync_or_async(registry: Registry) -> None:
    called: list[str] = []

    class Sync:
        def infer(self, observation: Any) -> None: ...

        def check_health(self) -> None:
            called.append("health")

        def record_autoscaling_stats(self) -> dict[str, float]:
            return {"mine": 1.0}

        def __del__(self) -> None:
            called.append("del")

    class Async:
        def infer(self, observation: Any) -> None: ...

        async def check_health(self) -> None:
            called.append("health")

        async def record_autoscaling_stats(self) -> dict[str, float]:
            return {"mine": 1.0}

        async def __del__(self) -> None:
            called.append("del")

    async def use(model: Any) -> None:
        await model.check_health()
        assert await model.record_autoscaling_stats() == {"mine": 1.0, ONGOING: 0.0}
        ended = model.__del__()
        if ended is not None:
            await ended

    for cls in (Sync, Async):
        called.clear()
        asyncio.run(use(direct(cls)()))
        assert called == ["health", "del"]
