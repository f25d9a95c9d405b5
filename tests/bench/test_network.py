"""The figures of robots over bad networks."""

from __future__ import annotations

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


def test_a_robot_that_never_comes_back_has_no_time() -> None:
    found = summary(Seen([(1.0, 0.9)], [(1.0, True)]), began=0.0, cut_at=2.0, back_at=7.0)
    assert (found["back_after_ms"], found["oldest_after_ms"], found["starved_after"]) == (None, None, "0 of 0")
