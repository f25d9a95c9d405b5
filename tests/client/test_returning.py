"""What becomes of open requests when a connection is lost, and of the life by which the server knows the robot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from inferential.client.returning import AWAITED_S, Returning
from inferential.zmtp.stream import WITH_NEXT


class Link(SimpleNamespace):
    """A link that is not connected."""

    def __init__(self, **given: Any) -> None:
        state = {"silent": True, "keeps_answers": True, "connected": False, "address": "tcp://a:1", "life": b""}
        super().__init__(**{**state, **given}, sent=[], flags=0)

    lost_reason = "lost"

    def try_send(self, frames: Any, flags: int = 0) -> bool:
        self.sent.append(frames)
        self.flags = flags
        return bool(self.connected)


class Session:
    """Requests 1 to 3 are open."""

    def __init__(self) -> None:
        self.open = [1, 2, 3]
        self.unsent = 0

    def has_unsent(self) -> bool:
        return bool(self.unsent)

    def sent_ids(self) -> list[int]:
        return list(self.open)

    def lost(self, request_ids: list[int], reason: str) -> int:
        ended = [one for one in request_ids if one in self.open]
        self.open = [one for one in self.open if one not in ended]
        return len(ended)

    def lost_all(self, reason: str) -> int:
        return self.lost(self.sent_ids(), reason)

    def cancellations(self, request_ids: list[int], *, awaited: bool) -> list[list[int]]:
        assert awaited
        return [request_ids] if request_ids else []


@pytest.fixture
def session() -> Any:
    return Session()


def test_after_silence_requests_stay_open_and_the_next_connection_asks_for_those_that_are(session: Any) -> None:
    link: Any = Link()
    returning = Returning(link)
    life = link.life
    assert returning.lost(session, 0.0) == 0
    assert returning.settle(session, 1.0) == 0
    session.open.remove(2)  # given up meanwhile
    link.connected, link.silent = True, False
    assert returning.settle(session, 2.0) == 0
    assert (link.sent, link.flags, returning.awaited, link.life) == ([[1, 3]], 0, [], life)
    assert session.open == [1, 3]


@pytest.mark.parametrize("given", [{"silent": False}, {"keeps_answers": False}])
def test_else_they_end_at_once_and_the_server_is_to_keep_nothing(session: Any, given: dict[str, Any]) -> None:
    link: Any = Link(**given)
    returning = Returning(link)
    life = link.life
    assert returning.lost(session, 0.0) == 3
    assert link.life not in (b"", life)


@pytest.mark.parametrize(
    ("found", "at"),
    [
        ({"silent": False}, 1.0),  # refused: the server has ended
        ({"connected": True, "keeps_answers": False}, 1.0),  # another one listens
        ({}, AWAITED_S),
    ],
)
def test_they_end_where_no_connection_gets_their_answers(session: Any, found: dict[str, Any], at: float) -> None:
    link: Any = Link()
    returning = Returning(link)
    life = link.life
    returning.lost(session, 0.0)
    vars(link).update(found)
    assert returning.settle(session, at) == 3
    assert (returning.awaited, link.life == life) == ([], False)


def test_what_is_asked_for_shares_a_packet_with_the_observation_that_waits(session: Any) -> None:
    link: Any = Link()
    returning = Returning(link)
    returning.lost(session, 0.0)
    session.unsent, link.connected, link.silent = 1, True, False
    assert returning.settle(session, 1.0) == 0
    assert (link.sent, link.flags) == ([[1, 2, 3]], WITH_NEXT)
