"""Which claims to renew observations count."""

from __future__ import annotations

from inferential.server.renewals import BURST, RATE_HZ, REJECTED_S, Renewals


def test_a_robot_that_renews_at_its_pace_is_always_accepted() -> None:
    renewals = Renewals()
    assert all(renewals.accepts(1, step / RATE_HZ) for step in range(1000))


def test_a_network_stall_that_bunches_renewals_is_forgiven() -> None:
    renewals = Renewals()
    assert all(renewals.accepts(1, 5.0) for _ in range(BURST))


def test_a_flood_is_rejected_while_it_goes_on() -> None:
    renewals = Renewals()
    accepted = sum(renewals.accepts(1, step / 4000) for step in range(40_000))  # ten seconds
    assert accepted <= BURST + 2


def test_a_client_that_floods_no_more_is_accepted_again() -> None:
    renewals = Renewals()
    for _ in range(1000):
        renewals.accepts(1, 0.0)
    assert not renewals.accepts(1, 1.0)
    assert renewals.accepts(1, 1.0 + REJECTED_S + 1.0)


def test_one_connection_that_floods_does_not_hurt_another_and_leaves_nothing_behind() -> None:
    renewals = Renewals()
    for _ in range(1000):
        renewals.accepts(1, 0.0)
    assert renewals.accepts(2, 0.0)
    renewals.forget(1)
    renewals.forget(2)
    assert not len(renewals)
