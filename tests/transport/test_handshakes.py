"""Bounds on handshakes that fail, by the address that they come from."""

from __future__ import annotations

import logging
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from inferential.transport.handshakes import (
    FAILURES_PER_S,
    KEYLESS_FACTOR,
    MAX_FAILURES,
    MAX_PEERS,
    NETWORK_FACTOR,
    HandshakeGuard,
)
from inferential.zmtp import ConnectionEnded
from inferential.zmtp.handshake import HandshakeError

WRONG = HandshakeError("wrong", "hello")


def with_keys() -> HandshakeGuard:
    """Returns a guard of an address where clients need keys."""
    guard = HandshakeGuard()
    guard.client_keys = cast(Any, {})
    return guard


def fail(guard: HandshakeGuard, host: str, times: int, now: float = 0.0) -> int:
    """Lets handshakes fail as a flood does; returns how many of them were let in."""
    let_in = 0
    for _ in range(times):
        if not guard.refuses(host, now):
            guard.failed(host, WRONG, now)
            let_in += 1
    return let_in


@given(times=st.integers(1, 400), seconds=st.floats(0, 60))
def test_no_more_fail_than_a_burst_and_the_rate_allow(times: int, seconds: float) -> None:
    guard = with_keys()
    let_in = fail(guard, "10.0.0.7", times) + fail(guard, "10.0.0.7", times, seconds)
    assert let_in <= MAX_FAILURES + FAILURES_PER_S * seconds + 1


def test_where_there_are_no_keys_ten_times_as_many_may_fail_and_what_follows_is_logged(caplog: Any) -> None:
    guard = HandshakeGuard()
    with caplog.at_level(logging.WARNING):
        assert fail(guard, "10.0.0.7", 5000) == MAX_FAILURES * KEYLESS_FACTOR
    assert "connections from 10.0.0.7 are closed unread: 1000 handshakes of it failed" in caplog.text
    assert guard.refuses("10.0.0.7", 0.0)
    assert not guard.refuses("10.0.0.7", 0.1)


def test_another_address_is_let_in_meanwhile() -> None:
    guard = with_keys()
    fail(guard, "10.0.0.7", 200)
    assert guard.refuses("10.0.0.7", 0.0)
    assert not guard.refuses("10.0.0.8", 0.0)


def test_addresses_of_one_ipv6_network_count_as_one_peer() -> None:
    guard = with_keys()
    let_in = sum(fail(guard, f"2001:db8:0:1::{number:x}", 50) for number in range(1, 200))
    assert let_in == MAX_FAILURES * NETWORK_FACTOR
    assert guard.refuses("2001:db8:0:1:ffff::9", 0.0)
    assert not guard.refuses("2001:db8:0:2::1", 0.0)
    assert not guard.refuses("2001:db8:0:1:ffff::9", 1.0)


def test_addresses_of_a_link_count_each_for_itself() -> None:
    guard = with_keys()
    for number in range(1, 100):
        fail(guard, f"fe80::{number:x}%eth0", 50)
    assert not guard.refuses("fe80::abcd%eth0", 0.0)


def test_one_flooding_address_does_not_use_up_its_network() -> None:
    guard = with_keys()
    fail(guard, "2001:db8::1", 5000)
    assert guard.refuses("2001:db8::1", 0.0)
    assert not guard.refuses("2001:db8::2", 0.0)


def test_a_peer_that_only_closes_its_connection_is_never_refused() -> None:
    guard = with_keys()
    for _ in range(500):
        guard.failed("10.0.0.7", ConnectionEnded("closed"), 0.0)
    assert not guard.refuses("10.0.0.7", 0.0)


def test_peers_that_are_remembered_are_bounded() -> None:
    guard = with_keys()
    for number in range(5000):
        guard.failed(f"10.0.{number >> 8}.{number & 255}", WRONG, 0.0)
    assert guard.peers <= MAX_PEERS
