"""What the dispatcher makes of what Ray reports, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
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
BEGINS = replace(POLICY, replicas=())
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
    async with asyncio.timeout(60):
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
    monkeypatch.setattr(module, "details", lambda: [BEGINS])
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


async def test_a_replica_takes_no_more_than_serve_lets_it_have(
    dispatcher: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "details", lambda: [BEGINS])
    assert dispatcher.max_inflight_limit("policy") == 0  # it is not up
    dispatcher.registry = registry_that(("", 0, []), ("", 1, [LISTED]))
    await dispatcher.start()
    assert dispatcher.max_inflight_limit("policy") == 3
    await until(lambda: dispatcher.max_inflight_limit("policy") == 0)  # its endpoint is not connected yet


class Links:
    """Makes links that come up when a test says so."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        on_change = args[-1]
        link = SimpleNamespace(
            up=False, greeting=None, fits=lambda keys: True, close=lambda: None, retire=lambda: None, closed=True
        )

        def come_up() -> None:
            link.up, link.greeting = True, SimpleNamespace(max_inflight=1)
            on_change(link)

        link.come_up = come_up
        self.made.append(link)
        return link


async def test_what_answers_by_its_handle_does_so_until_an_endpoint_is_connected(
    dispatcher: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = Links()
    monkeypatch.setattr(module, "Link", links)
    dispatcher.registry = registry_that(("", 0, []), ("", 1, [LISTED]))
    seen: list[int | None] = []
    await dispatcher.start()
    dispatcher.watch(lambda: seen.append(dispatcher.max_inflight("policy")), lambda model_id: 0)
    await until(lambda: bool(links.made))
    assert dispatcher.replicas("policy") == ("r1",)
    links.made[0].come_up()
    assert dispatcher.replicas("policy") == ["r1"]
    assert seen == [None, 1]
    links.made[0].up = False
    assert dispatcher.max_inflight("policy") == 0  # another is awaited


async def test_what_has_endpoints_at_the_start_is_not_called_by_its_handle(
    dispatcher: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = Links()
    monkeypatch.setattr(module, "Link", links)
    dispatcher.registry = registry_that(("", 0, [LISTED]))
    seen: list[int | None] = []
    dispatcher.watch(lambda: seen.append(dispatcher.max_inflight("policy")), lambda model_id: 0)
    await dispatcher.start()
    assert set(seen) == {0}
    links.made[0].come_up()
    assert dispatcher.max_inflight("policy") == 1
