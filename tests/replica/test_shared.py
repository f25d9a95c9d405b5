"""Memory that a server and a replica share."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.replica.shared import (
    SHARED_FROM_BYTES,
    SHARED_UP_TO_BYTES,
    SIZE_BYTES,
    Offer,
    Place,
    Places,
    ReplicasMemory,
    ServersMemory,
    open_memory,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create is Linux's")
PAGE = 4096


def both() -> tuple[ServersMemory, ReplicasMemory]:
    server = ServersMemory()
    return server, open_memory(Offer.from_bytes(server.offer.to_bytes()))


@given(st.lists(st.one_of(st.integers(1, 40 * PAGE), st.integers(-20, -1)), max_size=60))
def test_places_never_overlap_and_all_is_free_again_in_the_end(steps: list[int]) -> None:
    places, taken = Places(PAGE, 101 * PAGE), dict[int, int]()
    for step in steps:
        if step < 0 and taken:
            places.give(sorted(taken)[step % len(taken)])
            del taken[sorted(taken)[step % len(taken)]]
        elif step > 0 and (offset := places.take(step)) is not None:
            assert all(offset + step <= begin or begin + length <= offset for begin, length in taken.items())
            assert PAGE <= offset <= offset + step <= 101 * PAGE
            taken[offset] = step
    for offset in taken:
        places.give(offset)
    assert places.take(100 * PAGE) == PAGE


def test_the_lowest_place_is_taken() -> None:
    places = Places(0, 10 * PAGE)
    first, second = places.take(2 * PAGE), places.take(PAGE)
    assert (first, second) == (0, 2 * PAGE)
    places.give(0)
    places.give(0)  # twice is once
    places.give(7)  # a place that was not taken
    assert places.take(PAGE + 1) == 0
    assert places.take(8 * PAGE) is None


def test_what_one_end_puts_there_the_other_sees_without_a_copy() -> None:
    server, replica = both()
    payload = np.arange(250_000, dtype=np.float32)
    place = server.put(memoryview(payload).cast("B"))
    assert place is not None
    seen = np.frombuffer(replica.view(place), np.float32)
    np.testing.assert_array_equal(seen, payload)
    seen[0] = 7.0  # a model may write into what it is given
    beside = open_memory(server.offer)
    assert np.frombuffer(beside.view(place), np.float32)[0] == 7.0


def test_a_place_is_free_again_when_nothing_looks_at_it_any_more() -> None:
    server, replica = both()
    place = server.put(bytes(1_000_000))
    assert place is not None
    part = np.frombuffer(replica.view(place), np.uint8).reshape(1000, 1000)[3:5].T
    assert replica.freed() == []
    del part
    gc.collect()
    assert replica.freed() == [place.offset]
    assert replica.freed() == []
    server.give(place.offset)
    assert server.put(bytes(1_000_000)) == place


@pytest.mark.parametrize("size", [0, SHARED_FROM_BYTES - 1, SHARED_UP_TO_BYTES + 1])
def test_what_is_too_small_or_too_large_is_sent_instead(size: int) -> None:
    assert ServersMemory().put(bytes(size)) is None


def test_what_finds_no_place_is_sent_instead() -> None:
    server, payload = ServersMemory(), bytes(SHARED_UP_TO_BYTES)
    assert [server.put(payload) is None for _ in range(4)] == [False, False, False, True]


def test_an_offer_that_was_taken_back_opens_nothing() -> None:
    server = ServersMemory()
    server.close()
    server.close()
    with pytest.raises(OSError, match="No such file"):
        open_memory(server.offer)


def test_a_process_of_the_same_number_elsewhere_is_not_taken_for_the_server() -> None:
    server, other = ServersMemory(), ServersMemory()
    with pytest.raises(OSError, match="another process's"):
        open_memory(Offer(server.offer.pid, other.offer.fd, server.offer.token))


def test_memory_that_can_be_taken_away_is_not_looked_at() -> None:
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE_BYTES)
    with pytest.raises(OSError, match="not sealed"):
        open_memory(Offer(os.getpid(), fd, "0" * 32))
    os.close(fd)


@pytest.mark.parametrize("place", [Place(PAGE, SIZE_BYTES), Place(0, 8), Place(PAGE, -8), Place(-PAGE, 8)])
def test_a_place_that_there_is_not_is_not_looked_at(place: Place) -> None:
    _, replica = both()
    with pytest.raises(ValueError, match=r"payload|buffer|offset"):
        replica.view(place)


@pytest.mark.parametrize("frame", [b"{}", b"[1]", b"x", b'{"pid": "1", "fd": 2, "token": "t"}'])
def test_what_is_no_offer_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"offer|Expecting"):
        Offer.from_bytes(frame)
