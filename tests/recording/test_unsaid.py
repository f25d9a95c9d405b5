"""Entries that are kept until their robot says when it used the answer."""

from __future__ import annotations

import pytest

pytest.importorskip("mcap")

from inferential.recording.entries import Entry
from inferential.recording.unsaid import Unsaid
from inferential.tracking.limits import MAX_OPEN


def entry(request_id: int, client_id: str = "arm-01", size: int = 1000) -> Entry:
    common = {"client_id": client_id, "model_id": "pi0", "request_id": request_id}
    return Entry(0, 0, 0, request_id, common, {}, {"late": False}, None, bytes(size), None, b"")


def test_an_entry_is_taken_once_by_robot_model_and_request() -> None:
    unsaid, one = Unsaid(), entry(1)
    assert unsaid.keep(one, 1e6) == []
    assert unsaid.take("arm-02", "pi0", 1) is None
    assert unsaid.take("arm-01", "pi0", 2) is None
    assert unsaid.take("arm-01", "pi0", 1) is one
    assert unsaid.take("arm-01", "pi0", 1) is None
    assert (len(unsaid), unsaid.bytes_held) == (0, 0)


def test_of_each_robot_as_many_are_kept_as_the_server_remembers() -> None:
    unsaid = Unsaid()
    first = entry(1)
    assert unsaid.keep(first, 1e6) == []
    for number in range(2, MAX_OPEN + 1):
        assert unsaid.keep(entry(number), 1e6) == []
    assert unsaid.keep(entry(1, "arm-02"), 1e6) == []
    assert unsaid.keep(entry(MAX_OPEN + 1), 1e6) == [first]
    assert not unsaid.is_short


def test_beyond_the_room_the_robot_that_was_answered_longest_ago_gives_way() -> None:
    unsaid, old, new = Unsaid(), entry(1, "arm-01"), entry(1, "arm-02")
    room = 2.5 * old.bytes_held
    assert unsaid.keep(old, room) == unsaid.keep(new, room) == []
    assert not unsaid.is_short
    assert unsaid.keep(entry(2, "arm-02"), room) == [old]
    assert unsaid.is_short
    assert unsaid.bytes_held == 2 * old.bytes_held


def test_an_entry_without_room_is_let_go_itself() -> None:
    unsaid, one = Unsaid(), entry(1)
    assert unsaid.keep(one, 100) == [one]
    assert (len(unsaid), unsaid.bytes_held) == (0, 0)


def test_a_number_that_is_used_again_takes_the_place_of_the_former() -> None:
    unsaid, one, again = Unsaid(), entry(1), entry(1)
    unsaid.keep(one, 1e6)
    assert unsaid.keep(again, 1e6) == [one]
    assert unsaid.let_go() == [again]
    assert (len(unsaid), unsaid.bytes_held) == (0, 0)
