"""What the dispatcher makes of what Ray reports, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from inferential.dispatch.ray import dispatcher as module
from inferential.dispatch.ray.deployments import Deployment
from inferential.dispatch.ray.dispatcher import RayDispatcher
from inferential.replica.endpoint import Addresses
from inferential.replica.registry import Listed

POLICY = Deployment("policy", "Policy", True, ("r1",), 3)
LISTED = Listed("policy", "Policy", "r1", "node", Addresses("ipc:///nowhere", "", ""))


def registry_that(*tells: Any) -> Any:
    """A registry that tells these in turn, and then nothing more."""
    left = list(tells)

    async def watch(known: int) -> Any:
        if not left:
            await asyncio.Event().wait()
        change = left.pop(0)
        if isinstance(change, Exception):
            raise change
        return change

    return SimpleNamespace(watch=SimpleNamespace(remote=watch))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0)


class Offline(RayDispatcher):
    """Knows of Ray what a test says."""

    registry: Any = None

    def connect(self) -> tuple[Any, tuple[str, str], str]:
        return self.registry, ("", ""), "node"


@pytest.fixture
async def dispatcher(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Offline]:
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(module, "details", lambda: [POLICY])
    dispatcher = Offline(models=["policy"])
    dispatcher.registry = registry_that(("", 0, []))
    yield dispatcher
    await dispatcher.close()


async def test_whatever_keeps_the_registry_from_answering_it_is_asked_again(
    dispatcher: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = registry_that(("", 7, [LISTED]))
    monkeypatch.setattr(module, "registry", lambda: another)
    dispatcher.registry = registry_that(("", 0, []), ConnectionError("no head"))
    await dispatcher.start()
    assert dispatcher.max_inflight_limit("policy") == 3
    await until(lambda: dispatcher.max_inflight_limit("policy") == 0)  # its endpoint is known, and not connected yet


async def test_what_goes_wrong_elsewhere_when_replicas_change_does_not_end_the_watch(
    dispatcher: Offline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[int] = []

    def on_change() -> None:
        changes.append(1)
        if len(changes) == 1:
            raise RuntimeError("a strategy of a user")

    found = iter([[], [POLICY], [], [POLICY]])
    monkeypatch.setattr(module, "details", lambda: next(found, [POLICY]))
    await dispatcher.start()
    dispatcher.watch(on_change, lambda model_id: 0)
    await until(lambda: len(changes) == 3)
    assert "a strategy of a user" in caplog.text
    assert dispatcher.replicas("policy") == ("r1",)


async def test_a_replica_takes_no_more_than_serve_lets_it_have(dispatcher: Offline) -> None:
    assert dispatcher.max_inflight_limit("policy") == 0  # it is not up
    dispatcher.registry = registry_that(("", 0, []), ("", 1, [LISTED]))
    await dispatcher.start()
    assert dispatcher.max_inflight_limit("policy") == 3
    await until(lambda: dispatcher.max_inflight_limit("policy") == 0)  # its endpoint is not connected yet
