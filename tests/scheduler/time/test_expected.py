"""When clients are expected to ask next, and how well that is known."""

from __future__ import annotations

import math

import pytest

from inferential.scheduler.time.expected import MAX_CLIENTS, Expected


def asked(*times: float, client: str = "a", period_s: float = 0.5) -> Expected:
    expected = Expected()
    for at in times:
        expected.note(client, at, period_s, 0.15, 1.0)
    return expected


def test_a_client_is_expected_a_period_after_its_request() -> None:
    expected = asked(10.0, 10.5)
    assert expected.off_s == 0.0
    assert expected.coming(10.6, 11.2) == [(11.0, pytest.approx(11.15))]
    assert expected.coming(10.6, 10.9) == []


def test_how_far_requests_are_off_is_learned() -> None:
    assert asked(10.0).off_s == math.inf
    assert asked(10.0, 10.6).off_s == pytest.approx(0.1)
    assert asked(10.0, 10.6, 11.1, 11.6).off_s < 0.1


def test_one_that_is_overdue_is_expected_a_little_later_and_then_no_more() -> None:
    expected = asked(10.0, 10.51)
    ((at, _),) = expected.coming(11.02, 12.0)
    assert at == pytest.approx(11.03)
    assert expected.coming(11.04, 12.0) == []


def test_a_client_of_which_no_cadence_is_known_or_that_left_is_not_expected() -> None:
    assert asked(10.0, period_s=0.0).coming(10.0, 20.0) == []
    assert asked(10.0, period_s=-1.0).coming(10.0, 20.0) == []
    expected = asked(10.0)
    expected.forget("a")
    assert expected.coming(10.0, 20.0) == []


def test_clients_are_alike_that_weigh_the_same_and_have_about_as_much_time() -> None:
    expected = Expected()
    assert expected.are_alike()
    expected.note("a", 10.0, 0.5, 0.150, 1.0)
    expected.note("b", 10.0, 0.5, 0.155, 1.0)
    assert expected.are_alike()
    expected.note("b", 10.5, 0.5, 0.2, 1.0)
    assert not expected.are_alike()
    expected.note("b", 11.0, 0.5, 0.15, 2.0)
    assert not expected.are_alike()


def test_of_many_clients_nothing_is_expected() -> None:
    expected = Expected()
    for at in (10.0, 10.5):
        for number in range(MAX_CLIENTS + 1):
            expected.note(str(number), at, 0.5, 0.15, 1.0)
    assert expected.off_s == math.inf
    assert len(expected.coming(10.5, 20.0)) == MAX_CLIENTS
