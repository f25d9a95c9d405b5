"""The live page's events: all clients, some at a time, so that robots get their turns between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from tests.turns import Turns

from inferential import LocalDispatcher, ModelFailed, Server
from inferential.config import InferentialConfig
from inferential.server.status import ClientStatus, ServerStatus
from inferential.web import feed as feeds
from inferential.web.feed import CLIENTS_AT_ONCE, Feed, pause_after


async def test_an_event_has_every_client_and_leaves_the_loop_to_robots_between_them() -> None:
    config = InferentialConfig(server={"drain_timeout_s": 0.0})
    dispatcher = LocalDispatcher({"m": lambda observation: observation["state"]})
    async with Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server:
        count = 3 * CLIENTS_AT_ONCE
        robots = [server.connect(f"robot-{number}") for number in range(count)]
        for robot in robots:
            assert await robot.model("m").infer(60_000, state=np.ones(1)) is not None
        feed = Feed(server)
        async with Turns() as turns:
            event = json.loads(await feed.next_event())
        assert turns.count >= 3
        whole = json.loads(await feed.now())
        assert event.keys() == whole.keys() | {"left"}
        shown = [client["client_id"] for client in event["clients"]]
        assert shown == [client["client_id"] for client in whole["clients"]]
        assert len(shown) == count
        assert whole["clients"][0].keys() == event["clients"][0].keys()
        for robot in robots:
            robot.close()


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.0, 0.25), (1e-3, 0.25), (5e-3, 1.0), (0.3, 2.0)])
def test_events_take_half_a_percent_of_the_time_and_never_stay_away(took_s: float, pause_s: float) -> None:
    assert pause_after(took_s) == pytest.approx(pause_s)


async def test_readiness_asks_no_client() -> None:
    dispatcher = LocalDispatcher({"m": lambda observation: observation["state"]})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        server.status = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]
        assert server.readiness() == []


async def test_one_robot_is_shown_in_full_and_the_stream_has_no_more_of_it_than_a_row_shows() -> None:
    def fails_on_nan(observation: dict[str, Any]) -> Any:
        if np.isnan(observation["state"]).any():
            raise ValueError("not a number")
        return observation["state"]

    dispatcher = LocalDispatcher({"m": fails_on_nan})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        feed = Feed(server)
        robot = server.connect("arm/1")
        model = robot.model("m")
        for _ in range(5):
            await model.infer(60_000, state=np.ones(1))
        with pytest.raises(ModelFailed):
            await model.infer(60_000, state=np.full(1, np.nan))
        text = feed.robot("arm/1")
        assert text is not None
        found = json.loads(text)
        (use,) = found["models"]
        assert len(use["actions"]) == 5
        assert set(use["actions"][0]) == {"ago_s", "parts", "budget_ms", "cause"}
        assert use["text"].startswith("arm/1: ")
        assert [(error["kind"], error["count"]) for error in use["errors"]] == [("model_failed", 1)]
        assert "not a number" in use["errors"][0]["reason"]
        assert found["client"]["models"][0]["lateness"]["actions"] == 5
        (row,) = json.loads(await feed.next_event())["clients"]
        assert row["models"][0]["lateness"] is None
        assert feed.robot("leg") is None
        status = server.status()
        assert (status.models[0].calls, status.models[0].answers) == (6, 5)
        robot.close()


async def test_an_event_has_the_calls_that_are_new_since_the_one_before() -> None:
    dispatcher = LocalDispatcher({"m": lambda observation: observation["state"]})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        feed, robot = Feed(server), server.connect("arm")
        numbers = []
        for calls in (3, 2, 0, 1):
            for _ in range(calls):
                await robot.model("m").infer(60_000, state=np.ones(1))
            numbers.append([batch["number"] for batch in json.loads(await feed.next_event())["batches"]])
        assert numbers == [[1, 2, 3], [4, 5], [], [6]]
        assert len(server.overview().batches) == 6
        robot.close()


class Fleet:
    """A server of which only the robots are asked; `asked` counts how often."""

    def __init__(self, count: int) -> None:
        self.known_clients = [f"robot-{number}" for number in range(count)]
        self.asked = 0

    def client_status(self, client_ids: Iterable[str], *, with_lateness: bool) -> list[ClientStatus]:
        found = [ClientStatus(client_id, "arm", "active", 0.0, 1) for client_id in client_ids]
        self.asked += len(found)
        return found

    def overview(self, after_ended: int = 0, most_batches: int = 0) -> ServerStatus:
        return ServerStatus("", "", "", 1.0, False, 0, 0, [], [], [], [], [], [], {"calls_ended": 0}, {})


async def test_viewers_hear_that_a_status_cannot_be_made_and_see_those_that_follow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Fleet):
        fails = False

        def overview(self, after_ended: int = 0, most_batches: int = 0) -> ServerStatus:
            if self.fails:
                raise RuntimeError("no status now")
            return super().overview(after_ended, most_batches)

    monkeypatch.setattr(feeds, "INTERVAL_S", 0.0)
    fleet = Failing(1)
    feed = Feed(fleet)  # type: ignore[arg-type]
    events = feed.events()
    async with asyncio.timeout(60):
        assert ids(await anext(events)) == ["robot-0"]
        fleet.fails = True
        while "error" not in (event := json.loads(await anext(events))):
            pass
        assert event == {"error": "RuntimeError: the server's log says more"}
        fleet.fails = False
        while "clients" not in json.loads(await anext(events)):
            pass
    assert "the page cannot be shown: RuntimeError: no status now" in caplog.text
    feed.close()
    await events.aclose()  # type: ignore[attr-defined]


def ids(event: str) -> list[str]:
    return [client["client_id"] for client in json.loads(event)["clients"]]


async def test_of_many_robots_each_event_has_some_in_turn_and_tells_which_have_left() -> None:
    fleet = Fleet(3 * feeds.ROBOTS_EACH)
    feed = Feed(fleet)  # type: ignore[arg-type]
    seen = [client_id for _ in range(3) for client_id in ids(await feed.next_event())]
    assert sorted(seen) == sorted(fleet.known_clients)
    assert fleet.asked == len(seen)
    fleet.known_clients[-2:] = ["new"]
    event = await feed.next_event()
    assert ids(event)[0] == "new"
    assert len(ids(event)) == feeds.ROBOTS_EACH
    assert json.loads(event)["left"] == seen[-2:]
    again = {client_id for _ in range(3) for client_id in ids(await feed.next_event())}
    assert again == set(fleet.known_clients)


async def test_a_stream_begins_with_every_robot_and_so_does_what_follows_missed_events(monkeypatch: Any) -> None:
    monkeypatch.setattr(feeds, "INTERVAL_S", 0.0)
    fleet = Fleet(2 * feeds.ROBOTS_EACH)
    feed = Feed(fleet)  # type: ignore[arg-type]
    slow, quick = feed.events(), feed.events()
    assert ids(await anext(slow)) == ids(await anext(quick)) == fleet.known_clients
    for _ in range(4):
        assert len(ids(await anext(quick))) == feeds.ROBOTS_EACH
    event = await anext(slow)
    assert "left" not in json.loads(event)
    assert sorted(ids(event)) == sorted(fleet.known_clients)
    feed.close()
    await slow.aclose()
    await quick.aclose()


async def test_a_status_of_very_many_robots_is_made_once_for_all_who_ask_meanwhile(monkeypatch: Any) -> None:
    fleet = Fleet(100)
    feed = Feed(fleet)  # type: ignore[arg-type]
    first, second = await asyncio.gather(feed.now(), feed.now())
    assert (first, fleet.asked) == (second, 100)
    monkeypatch.setattr(feeds, "SHARE", 1e-9)
    feed = Feed(fleet)  # type: ignore[arg-type]
    await feed.now()
    assert fleet.asked == 200
    assert await feed.now() == first
    assert fleet.asked == 200
