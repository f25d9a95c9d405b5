"""What is kept for robots that are away, in a made-up time."""

from __future__ import annotations

import pytest

from inferential.transport import returns
from inferential.transport.returns import KEPT_S, KeptAnswer, Returns

ARM, LIFE, OTHER = b"arm", b"L" * 16, b"O" * 16
ANSWER = KeptAnswer("arm", 1, b"envelope", b"payload")


def message(number: int, envelope: bytes = b"e") -> tuple[bytes, bytes, bytes, float, int]:
    return ARM, envelope, b"", 0.0, number


@pytest.fixture
def kept() -> Returns:
    """The robot "arm" has left connection 1, and is owed one of everything."""
    kept = Returns()
    kept.left(1, ARM, LIFE, 0.0)
    kept.keep_waiting(message(1, b"waiting"))
    assert kept.keep_unread(message(1, b"unread"))
    assert kept.keep_answer(1, ANSWER)
    return kept


def test_the_same_life_gets_all_of_it(kept: Returns) -> None:
    owed, given_up = kept.came(2, ARM, LIFE)
    assert owed is not None
    assert given_up is None
    assert ([one[1] for one in owed.waiting], [one[1] for one in owed.unread]) == ([b"waiting"], [b"unread"])
    assert owed.answers == [ANSWER]
    assert kept.place(1) == 2
    assert kept.sizes() == {"robots_away": 0, "robots_away_bytes": 0, "connections_former": 1}


def test_another_life_gets_none_of_it(kept: Returns) -> None:
    owed, given_up = kept.came(2, ARM, OTHER)
    assert owed is None
    assert given_up is not None
    assert given_up.answers == [ANSWER]
    assert (kept.place(1), kept.is_away(1), len(kept)) == (1, False, 0)


def test_a_robot_that_stays_away_is_given_up(kept: Returns) -> None:
    assert kept.expire(KEPT_S - 0.1) == []
    (given_up,) = kept.expire(KEPT_S)
    assert given_up.number == 1
    assert kept.sizes() == {"robots_away": 0, "robots_away_bytes": 0, "connections_former": 0}
    assert not kept.keep_answer(1, ANSWER)


def test_an_answer_finds_a_robot_that_has_left_twice(kept: Returns) -> None:
    kept.came(2, ARM, LIFE)
    kept.left(2, ARM, LIFE, 1.0)
    assert kept.keep_answer(1, ANSWER)
    owed, _ = kept.came(3, ARM, LIFE)
    assert owed is not None
    assert owed.answers == [ANSWER]
    assert kept.place(1) == kept.place(2) == 3


def test_former_connections_are_forgotten_with_the_robot_and_in_time() -> None:
    kept = Returns()
    for number in range(1, 100):
        kept.left(number, ARM, LIFE, 0.0)
        kept.came(number + 1, ARM, LIFE)
    assert kept.sizes()["connections_former"] == 8
    kept.left(100, ARM, LIFE, 0.0)
    kept.expire(KEPT_S)
    assert kept.sizes()["connections_former"] == 0


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returns, "MAX_BYTES", 100)
    monkeypatch.setattr(returns, "MAX_ABSENT", 3)
    kept = Returns()
    given_up = [one for number in range(1, 6) for one in kept.left(number, str(number).encode(), LIFE, 0.0)]
    assert [one.number for one in given_up] == [1, 2]
    assert [kept.keep_unread(message(5, b"x" * 40)) for _ in range(3)] == [True, True, False]
    for _ in range(returns.MAX_MESSAGES):
        kept.keep_waiting(message(4, b""))
    assert kept.sizes()["robots_away_bytes"] == 80
