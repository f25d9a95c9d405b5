"""Memory that payloads are received into and that workers see without a copy."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from inferential.replica.lending import Lending
from inferential.replica.shared import SHARED_FROM_BYTES, SHARED_UP_TO_BYTES, Place

if sys.platform != "linux":
    pytest.skip("memory without a name is Linux's", allow_module_level=True)

from inferential.replica.inbox import INBOX_AT, Inbox, InboxView

SIZE = 100_000


def received(inbox: Inbox, value: int, size: int = SIZE) -> memoryview:
    payload = inbox.allocate(size)
    assert payload is not None
    payload[:] = bytes([value]) * size
    return payload


def place_of(inbox: Inbox, payload: memoryview) -> Place:
    place = inbox.place_of(payload)
    assert place is not None
    return place


def test_a_worker_sees_what_was_received() -> None:
    inbox = Inbox()
    payload = received(inbox, 7)
    place = place_of(inbox, payload)
    assert place == Place(INBOX_AT, SIZE)
    assert InboxView(inbox.fd).view(place) == payload


def test_what_a_model_writes_is_seen_by_neither_the_server_nor_another_worker_nor_the_next_payload() -> None:
    inbox = Inbox()
    view, other = InboxView(inbox.fd), InboxView(inbox.fd)
    payload = received(inbox, 7)
    place = place_of(inbox, payload)
    np.frombuffer(view.view(place), np.uint8)[:] = 1
    assert bytes(payload) == bytes(other.view(place)) == bytes([7]) * SIZE
    assert view.freed() == [place.offset]
    del payload
    payload = received(inbox, 9)
    assert place_of(inbox, payload) == place
    assert view.view(place) == payload


def test_memory_is_free_again_when_nothing_looks_at_it() -> None:
    inbox = Inbox()
    payload = received(inbox, 1)
    array = np.frombuffer(payload, np.uint8)[5:]
    del payload
    gc.collect()
    other = received(inbox, 2)
    assert place_of(inbox, other).offset > INBOX_AT
    del array
    assert place_of(inbox, received(inbox, 3)).offset == INBOX_AT


def test_a_view_that_is_kept_is_not_free() -> None:
    inbox = Inbox()
    view = InboxView(inbox.fd)
    seen = np.frombuffer(view.view(place_of(inbox, received(inbox, 1))), np.uint8)
    assert view.freed() == []
    del seen
    assert view.freed() == [INBOX_AT]


@pytest.mark.parametrize("size", [SHARED_FROM_BYTES - 1, SHARED_UP_TO_BYTES + 1])
def test_what_is_too_small_or_too_large_lies_elsewhere(size: int) -> None:
    assert Inbox().allocate(size) is None


def test_there_is_none_where_all_is_taken() -> None:
    inbox = Inbox()
    kept = [inbox.allocate(SHARED_UP_TO_BYTES) for _ in range(4)]
    assert None not in kept
    assert inbox.allocate(SHARED_FROM_BYTES) is None
    kept.pop()
    assert inbox.allocate(SHARED_FROM_BYTES) is not None


def test_other_payloads_and_parts_of_one_have_no_place() -> None:
    inbox = Inbox()
    payload = received(inbox, 1)
    for other in (b"x", bytearray(SIZE), memoryview(bytes(SIZE)), payload[1:]):
        assert inbox.place_of(other) is None


def test_a_payload_is_lent_once_at_a_time_and_held_until_it_comes_back() -> None:
    inbox = Inbox()
    lending = Lending(None, inbox)
    payload = received(inbox, 1)
    place = lending.lend(payload)
    assert place is not None
    assert lending.lend(payload) is None
    del payload
    assert place_of(inbox, received(inbox, 2)) != place
    lending.take_back([place.offset])
    assert place_of(inbox, received(inbox, 3)) == place
