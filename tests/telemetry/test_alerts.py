"""Alerts: when a condition begins and ends, and that it is posted once to a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from inferential import InferenceError, LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.alerts import AlertsConfig
from inferential.telemetry.alerts import Alerts
from inferential.telemetry.conditions import WINDOW_S, Seen, Totals, Watch, in_words
from inferential.telemetry.webhook import FIRST_RETRY_S, Post, Webhook

URL = "http://127.0.0.1:1/hook"
QUIET = Seen(Totals(), {}, {"arm": ("ready", "")}, ["robot-1"], [])


def config(**fields: Any) -> AlertsConfig:
    return AlertsConfig.model_validate({"webhook": URL, **fields})


def changed(watch: Watch, at: float, seen: Seen, settings: AlertsConfig) -> list[tuple[str, str, str]]:
    return [(one.alert, one.state, one.subject) for one in watch.look(at, seen, settings)]


def test_a_condition_is_said_once_when_it_has_held_and_once_when_it_is_over() -> None:
    watch, settings = Watch(), config(hold_s=10.0)
    hung = replace(QUIET, models={"arm": ("hung", "a call takes longer than 500 ms")})
    assert [changed(watch, at, hung, settings) for at in (0, 5, 10, 11, 60)] == [
        [],
        [],
        [("model", "firing", "arm")],
        [],
        [],
    ]
    assert [changed(watch, at, QUIET, settings) for at in (61, 70, 71, 72)] == [
        [],
        [],
        [("model", "resolved", "arm")],
        [],
    ]
    assert changed(watch, 80, hung, settings) == []
    assert changed(watch, 85, QUIET, settings) == []
    assert changed(watch, 100, hung, settings) == []  # it has not held for ten seconds


def test_what_stops_for_less_than_it_must_be_over_goes_on_unsaid() -> None:
    watch, settings = Watch(), config(hold_s=10.0)
    failing = replace(QUIET, models={"arm": ("failing", "no weights")})
    watch.look(0, failing, settings)
    (change,) = watch.look(10, failing, settings)
    assert change.text == "model arm is failing: no weights"
    assert change.since == 0
    for at, seen in ((20, QUIET), (25, failing), (40, QUIET), (45, failing)):
        assert changed(watch, at, seen, settings) == []


def test_the_fleet_is_late_by_the_answers_of_a_minute_and_well_at_half_of_that() -> None:
    watch, settings = Watch(), config(hold_s=0.0, late_share=0.1)
    watch.look(0, replace(QUIET, totals=Totals(1000, 900, 1000, 0)), settings)
    late = replace(QUIET, totals=Totals(1100, 912, 1100, 0), late_by_cause={"network": 9, "queue": 3})
    (change,) = watch.look(30, late, settings)
    assert (
        change.text
        == "12 % of the answers due within a minute were late or did not come; of late actions most by network"
    )
    assert changed(watch, 35, replace(late, totals=Totals(1150, 912, 1150, 0)), settings) == []  # 8 %
    assert changed(watch, 40, replace(late, totals=Totals(1400, 912, 1400, 0)), settings) == [
        ("late", "resolved", "fleet")
    ]


def test_robots_that_get_nothing_at_all_are_a_late_fleet_and_refusals_another_condition() -> None:
    watch, settings = Watch(), config(hold_s=0.0)
    watch.look(0, QUIET, settings)
    nothing = replace(QUIET, totals=Totals(due=40, missed=40, ended=40, refused=40))
    assert sorted(changed(watch, 1, nothing, settings)) == [
        ("late", "firing", "fleet"),
        ("refusals", "firing", "fleet"),
    ]
    assert sorted(changed(watch, 2 + WINDOW_S, nothing, settings)) == [
        ("late", "resolved", "fleet"),
        ("refusals", "resolved", "fleet"),
    ]


def test_a_robot_that_is_gone_is_said_until_it_returns_though_many_leave_after_it() -> None:
    watch, settings = Watch(), config(hold_s=0.0)
    gone = replace(QUIET, connected=[], departed=["robot-1"])
    assert changed(watch, 0, gone, settings) == [("robot", "firing", "robot-1")]
    assert changed(watch, 1, replace(gone, departed=[]), settings) == []
    assert changed(watch, 2, QUIET, settings) == [("robot", "resolved", "robot-1")]
    assert changed(watch, 3, gone, config(conditions=["late"])) == []


def test_of_many_robots_that_leave_at_once_one_line_is_said() -> None:
    watch, settings = Watch(), config(hold_s=0.0)
    names = [f"arm-{number}" for number in range(40)]
    gone = watch.look(0, replace(QUIET, connected=[], departed=names), settings)
    assert len(gone) == 40
    assert in_words(gone) == "firing: 40 robots are gone: arm-0, arm-1, arm-2, arm-3, arm-4 and 35 more"
    back = watch.look(1, replace(QUIET, connected=names), settings)
    assert in_words(back).startswith("resolved: 40 robots are back: arm-0, ")
    assert in_words(gone[:2]) == "firing: robot arm-0 is gone\nfiring: robot arm-1 is gone"


class Receiver:
    """An HTTP server that fails as often as it is to."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.answers: list[int] = []
        self.came = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = receiver.answers.pop(0) if receiver.answers else 204
                if answer < 300:
                    receiver.posts.append(body)
                    receiver.headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(answer)
                if answer == 302:
                    self.send_header("Location", receiver.url)
                self.end_headers()
                receiver.came.set()

            def log_message(self, *args: Any) -> None:
                """Keeps quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_a_post_that_fails_is_tried_again_at_growing_intervals_and_later_ones_come_after_it(receiver: Receiver) -> None:
    receiver.answers = [503, 429, 500]
    pauses: list[float] = []
    done = threading.Event()

    def wait(pause_s: float) -> bool:
        pauses.append(pause_s)
        return False

    webhook = Webhook(wait)
    for number in range(2):
        webhook.post(Post(receiver.url, {"X-Key": "k"}, {"text": str(number)}, 10.0))
    for _ in range(3000):
        if webhook.posted == 2:
            break
        done.wait(0.02)
    webhook.close(10.0)
    assert [post["text"] for post in receiver.posts] == ["0", "1"]
    assert receiver.headers["x-key"] == "k"
    assert pauses == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert webhook.failed == 0


@pytest.mark.parametrize("answer", [400, 302, 404])
def test_what_would_fail_again_is_not_tried_again(
    receiver: Receiver, answer: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [answer]
    webhook = Webhook()
    webhook.post(Post(receiver.url, {}, {"text": "the arm hangs"}, 10.0))
    assert receiver.came.wait(60)
    webhook.close(10.0)
    assert (webhook.posted, webhook.failed, receiver.posts) == (0, 1, [])
    leads = f" (a redirect to {receiver.url.removesuffix('/hook')}, not followed: set alerts.webhook to where it leads)"
    assert f"not posted, HTTP {answer}{leads if answer == 302 else ''}: the arm hangs" in caplog.text
    assert "/hook" not in caplog.text  # a webhook's path is a secret


def test_a_receiver_that_accepts_and_never_ends_its_answer_holds_no_later_post_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        webhook = Webhook()
        for number in range(2):
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/hook"
            webhook.post(Post(url, {}, {"text": str(number)}, 60.0))
        for number in range(2):
            receiving, _ = listening.accept()
            with receiving:
                data = b""
                while not data.endswith(b"}"):
                    data += receiving.recv(4096)
                assert json.loads(data.partition(b"\r\n\r\n")[2]) == {"text": str(number)}
                receiving.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                assert receiving.recv(1) == b""  # it is hung up on, and not read to an end that never comes
        webhook.close(10.0)
    assert webhook.posted == 2


def test_a_reason_of_pages_is_posted_in_short() -> None:
    watch = Watch()
    failing = replace(QUIET, models={"arm": ("failing", "RuntimeError: no weights\n" + "x" * 10_000)})
    (change,) = watch.look(0, failing, config(hold_s=0.0))
    assert change.text.startswith("model arm is failing: RuntimeError: no weights xxx")
    assert len(change.text) < 600


def test_a_webhook_that_does_not_answer_keeps_no_caller_waiting() -> None:
    webhook = Webhook()
    for number in range(200):
        webhook.post(Post(URL, {}, {"text": str(number)}, 10.0))
    assert webhook.failed > 0
    webhook.close(0.0)


async def test_a_failing_model_is_posted_once_and_its_recovery_too(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True

    def policy(observation: dict[str, Any]) -> Any:
        if broken:
            raise RuntimeError("no weights")
        return observation["state"]

    async def posted(alert: str, state: str) -> None:
        for _ in range(3000):
            if (alert, state) in [(one["alert"], one["state"]) for one in alerts_of(receiver)]:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{alert} was never {state}: {receiver.posts}")

    monkeypatch.setattr("inferential.telemetry.alerts.LOOK_S", 0.02)
    section = {"webhook": receiver.url, "headers": {"Authorization": "Bearer s3cret"}, "hold_s": 0.0}
    settings = InferentialConfig.model_validate({"alerts": section, "server": {"drain_timeout_s": 0.0}})
    dispatcher = LocalDispatcher({"arm": policy})
    async with Server("tcp://127.0.0.1:0", config=settings, dispatcher=dispatcher) as server:
        assert settings.alerts is not None
        async with Alerts(server, settings.alerts) as alerts:
            assert "s3cret" not in alerts.announcement() + repr(settings.alerts)
            robot = server.connect("robot-1")
            model = robot.model("arm")
            for _ in range(20):
                with pytest.raises(InferenceError):
                    await model.infer(60_000, state=np.ones(1))
            await posted("model", "firing")
            await posted("refusals", "firing")
            broken = False
            await posted("model", "resolved")  # its breaker tries it again by itself
            robot.close()
            server.reconfigure(settings.model_copy(update={"alerts": None}))
            assert alerts.look(time.monotonic() + 2 * WINDOW_S) == []
    found = alerts_of(receiver)
    assert [one["state"] for one in found if one["alert"] == "model"] == ["firing", "resolved"]
    assert "model arm is failing" in found[0]["text"] or "requests" in found[0]["text"]
    assert set(found[0]) == {"alert", "state", "subject", "text", "since"}
    assert receiver.headers["authorization"] == "Bearer s3cret"


async def test_a_look_that_fails_is_logged_and_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("inferential.telemetry.alerts.LOOK_S", 0.01)
    settings = InferentialConfig.model_validate({"alerts": {"webhook": URL}})
    assert settings.alerts is not None
    looked, looks = asyncio.Event(), 0
    async with (
        Server("tcp://127.0.0.1:0", config=settings, dispatcher=LocalDispatcher({})) as server,
        Alerts(server, settings.alerts) as alerts,
    ):

        def look(now: float) -> list[Any]:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise OverflowError("the year 10000")
            looked.set()
            return []

        monkeypatch.setattr(alerts, "look", look)
        async with asyncio.timeout(60):
            await looked.wait()
    assert "alerts: the server could not be looked at: OverflowError: the year 10000" in caplog.text


def alerts_of(receiver: Receiver) -> list[dict[str, Any]]:
    return [one for post in receiver.posts for one in post["alerts"]]
