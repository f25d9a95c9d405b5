"""Rates of classes beyond capacity: minimum rates first, then value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduler.time.test_fair_share import Models

from inferential.scheduler.time.fair_share import UTILISATION, FairShares
from inferential.scheduler.time.planned_rates import LEAST_RATE_HZ, ClassRate, RateRequest, planned

CLASSES = {"arm": ClassRate(min_rate_hz=5, value=1), "safety": ClassRate(min_rate_hz=2, value=10)}


def asked(robot_class: str, count: int, per_second: float, model_id: str = "m") -> list[RateRequest]:
    return [RateRequest(f"{robot_class}-{n}", model_id, per_second, 1.0, robot_class) for n in range(count)]


def test_minimum_rates_come_first_then_what_is_worth_most() -> None:
    requests = [*asked("arm", 2, 50), *asked("safety", 1, 50)]
    assert planned(requests, {"m": 0.01}, CLASSES, 0.9) == pytest.approx([20, 20, 50])
    assert planned(requests, {"m": 0.02}, CLASSES, 0.9) == pytest.approx([5, 5, 35])


def test_minimum_rates_beyond_the_capacity_are_cut() -> None:
    assert planned(asked("arm", 4, 50), {"m": 0.1}, CLASSES, 0.9) == pytest.approx([2.25] * 4)


def test_value_counts_per_second_of_the_model() -> None:
    requests = [*asked("arm", 1, 50), *asked("safety", 1, 50, "slow")]
    classes = {"arm": ClassRate(value=1), "safety": ClassRate(value=10)}
    assert planned(requests, {"m": 0.01, "slow": 0.2}, classes, 0.9) == pytest.approx([50, 2.0])
    assert planned(requests, {"m": 0.01, "slow": 0.05}, classes, 0.5) == pytest.approx([LEAST_RATE_HZ, 9.96])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arm", "safety", "other"]),
            st.floats(1e-3, 1e3),
            st.floats(0.01, 2.0),
            st.sampled_from(["m", "n"]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.floats(1e-4, 10.0),
)
def test_no_plan_exceeds_the_capacity_or_what_is_asked_and_none_waits_for_ever(
    rows: list[tuple[str, float, float, str]], cost_s: float
) -> None:
    requests = [
        RateRequest(str(number), model, rate, weight, name) for number, (name, rate, weight, model) in enumerate(rows)
    ]
    costs = {"m": cost_s, "n": cost_s / 3}
    rates = planned(requests, costs, CLASSES, UTILISATION)
    load = sum(rate * costs[one.model_id] for rate, one in zip(rates, requests, strict=True))
    assert load <= UTILISATION * (1 + 1e-9)
    assert all(0 < rate <= one.per_second * (1 + 1e-9) for rate, one in zip(rates, requests, strict=True))


def test_clients_get_the_interval_of_their_class_until_less_is_asked() -> None:
    shares = FairShares(Models({"m": 0.01}))
    shares.configure(CLASSES)
    for name in ("arm", "safety"):
        shares.note(name, "m", 1.0, name)
    shares.update([("arm", "m", 0.01), ("safety", "m", 0.0125)])
    assert shares.interval_ms("safety", "m") == pytest.approx(12.5)
    assert shares.interval_ms("arm", "m") == pytest.approx(100.0)
    shares.update([("arm", "m", 0.1), ("safety", "m", 0.0125)])
    assert shares.interval_ms("arm", "m") == pytest.approx(100.0)  # it follows, so the plan stays
    for _ in range(40):
        shares.update([("arm", "m", 0.1), ("safety", "m", 0.1)])
    assert shares.interval_ms("arm", "m") == 0.0


def test_without_classes_nothing_changes() -> None:
    plain, configured = FairShares(Models({"m": 0.01})), FairShares(Models({"m": 0.01}))
    configured.configure(CLASSES)
    for shares in (plain, configured):
        shares.note("a", "m", 1.0, "unnamed")
        shares.update([("a", "m", 0.001), ("b", "m", 0.02)])
    assert plain.interval_ms("a", "m") == configured.interval_ms("a", "m") > 0


def test_a_model_whose_latency_is_not_known_yet_costs_nothing_and_gets_what_it_asks() -> None:
    requests = [*asked("arm", 2, 50), *asked("safety", 1, 20, "new")]
    assert planned(requests, {"m": 0.02, "new": 0.0}, CLASSES, 0.9) == pytest.approx([22.5, 22.5, 20])
