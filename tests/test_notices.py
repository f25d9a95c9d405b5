"""Repeated log lines: once a minute with a count, and a bounded number in all."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from inferential import notices
from inferential.notices import MAX_LINES, PERIOD_S, LineQuota, Notices

logger = logging.getLogger("inferential.test_notices")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> Clock:
    caplog.set_level(logging.INFO, logger.name)
    made = Clock()
    monkeypatch.setattr(notices, "time", made)
    return made


def test_the_same_thing_is_said_once_a_minute_with_how_often_it_happened_meanwhile(clock: Clock, caplog: Any) -> None:
    said = Notices(logger)
    for _ in range(5):
        said.say("arm", "%s does it wrong", "arm")
    clock.now += PERIOD_S
    said.say("arm", "%s does it wrong", "arm")
    assert caplog.messages == ["arm does it wrong", "arm does it wrong (4 more times in the last 60 s)"]


def test_what_others_do_is_said_too_but_not_more_than_so_many_lines_a_minute(clock: Clock, caplog: Any) -> None:
    said = Notices(logger)
    for number in range(MAX_LINES + 7):
        said.say(number, "%s does it wrong", number)
    assert len(caplog.messages) == MAX_LINES
    clock.now += PERIOD_S
    said.say("arm", "arm does it wrong")
    assert caplog.messages[-1] == "arm does it wrong [7 lines about others were left out]"


def test_a_long_text_is_cut(clock: Clock, caplog: Any) -> None:
    Notices(logger).say("arm", "x" * 100_000)
    assert len(caplog.messages[0]) < 1000


def test_what_is_remembered_is_bounded(clock: Clock) -> None:
    said = Notices(logger)
    for number in range(3000):
        clock.now += PERIOD_S
        said.say(number, "again")
    assert len(said) <= 1024


def test_a_quota_of_lines_says_how_many_were_left_out(clock: Clock, caplog: Any) -> None:
    said = LineQuota(logger, 3)
    for number in range(10):
        said.say("client %d connected", number)
    assert caplog.messages == ["client 0 connected", "client 1 connected", "client 2 connected"]
    clock.now += PERIOD_S
    said.say("client %d connected", 11)
    assert caplog.messages[3:] == ["client 11 connected [7 such lines were left out before]"]
