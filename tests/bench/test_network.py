"""The figures of robots over bad networks."""

from __future__ import annotations

import pytest
from bench.network.least import least
from bench.network.seen import Seen, summary


def test_ages_are_those_before_the_cut_and_the_robot_is_back_with_an_answer_of_the_present() -> None:
    seen = Seen()
    seen.answers = [(1.0, 0.0), (10.1, 10.0), (10.4, 10.1), (15.05, 12.0), (15.2, 14.95), (15.3, 15.2)]
    seen.steps = [(10.0 + number / 50, number % 10 != 0) for number in range(1000)]
    found = summary(seen, began=9.0, cut_at=11.0, back_at=15.0)
    assert (found["age_p50_ms"], found["age_max_ms"]) == (300.0, 300.0)
    assert found["answers_per_s"] == 1.0
    assert found["starved"] == "6 of 51"
    assert found["back_after_ms"] == 200.0  # the answer of an observation in the cut does not count
    assert found["oldest_after_ms"] == 3050.0
    assert found["starved_after"] == "50 of 500"
    assert found["starved_until_back"] == 1


def test_a_robot_that_never_comes_back_has_no_time() -> None:
    found = summary(Seen([(1.0, 0.9)], [(1.0, True)]), began=0.0, cut_at=2.0, back_at=7.0)
    assert (found["back_after_ms"], found["oldest_after_ms"], found["starved_after"]) == (None, None, "0 of 0")
    assert found["starved_until_back"] is None


@pytest.mark.parametrize(
    ("kind", "network", "back_ms"),
    [
        ("emulated", "rtt 50 +- 30 ms", 50 + 30 + 10),
        ("packets", "rtt 50 +- 30 ms", 10 + 2 * (50 + 30 / 6) + 30 + 10),  # of two packets the slower, each way
        ("emulated", "2 MB/s, 150 kB", 75 + 30 + 10),
    ],
)
def test_the_least_after_an_outage_is_what_the_network_and_the_model_take(
    kind: str, network: str, back_ms: float
) -> None:
    """Half a control step, and half the time between two attempts to connect, included."""
    found = least(kind, network)
    assert found["back_p50_ms"] == pytest.approx(back_ms, abs=3)
    assert found["back_p10_ms"] < found["back_p50_ms"] < found["back_p90_ms"]
    assert found["steps_p50"] == round(found["back_p50_ms"] / 20)
