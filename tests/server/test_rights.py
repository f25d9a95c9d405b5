"""What a client may ask, and how often."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.config.client_policy import ClientPolicies
from inferential.config.schema import ClientsConfig
from inferential.scheduler.request import Refusal, RefusalKind
from inferential.server.rate_limits import BURST_S, RateLimits
from inferential.server.rights import Claim, hold_to


def policies(*known: dict[str, Any]) -> ClientPolicies:
    return ClientPolicies(ClientsConfig.model_validate({"known": [{"id": "arm", **entry} for entry in known]}))


def held(claim: Claim, model_id: str = "pi0", **entry: Any) -> Refusal | None:
    rights = policies({"model": "pi0", **entry}).rights("arm", model_id)
    assert rights is not None
    return hold_to(rights, claim, "arm", model_id, RateLimits(), 0.0)


@given(rate_hz=st.floats(1, 200), gaps=st.lists(st.floats(0, 0.5), max_size=80))
def test_no_more_pass_than_the_rate_and_a_burst_allow(rate_hz: float, gaps: list[float]) -> None:
    limits, now, passed = RateLimits(), 100.0, 0
    for gap in gaps:
        now += gap
        passed += not limits.wait_s("arm", rate_hz, now)
    assert passed <= (now - 100.0 + BURST_S) * rate_hz + 2


@given(rate_hz=st.floats(1, 200), jitter=st.lists(st.floats(0, BURST_S * 0.99), min_size=1, max_size=60))
def test_a_robot_at_its_rate_is_never_refused_for_the_networks_jitter(rate_hz: float, jitter: list[float]) -> None:
    limits = RateLimits()
    arrivals = sorted(number / rate_hz + late for number, late in enumerate(jitter))
    assert not any(limits.wait_s("arm", rate_hz, now) for now in arrivals)


def test_a_client_that_waits_as_long_as_its_refusal_says_passes() -> None:
    limits = RateLimits()
    assert limits.wait_s("arm", 2.0, 0.0) == 0.0
    wait_s = limits.wait_s("arm", 2.0, 0.01)
    assert wait_s == pytest.approx(0.5 - 0.01 - BURST_S)
    assert limits.wait_s("arm", 2.0, 0.01 + wait_s) == 0.0


def test_each_client_has_a_rate_of_its_own() -> None:
    limits = RateLimits()
    assert limits.wait_s("arm", 1.0, 0.0) == 0.0
    assert limits.wait_s("leg", 1.0, 0.0) == 0.0
    assert limits.wait_s("arm", 1.0, 0.0) > 0.0


@pytest.mark.parametrize(("claimed", "counts"), [(0, 2), (2, 2), (7, 7)])
def test_a_better_priority_than_allowed_counts_as_the_best_allowed(claimed: int, counts: int) -> None:
    claim = Claim(0.0, claimed, 0)
    assert held(claim, min_priority=2) is None
    assert claim.priority == counts


def test_a_refused_request_does_not_count_for_the_rate() -> None:
    rates = RateLimits()
    rights = policies({"model": "pi0", "max_rate_hz": 1.0, "max_payload_bytes": 10}).rights("arm", "pi0")
    assert rights is not None
    for _ in range(5):
        refusal = hold_to(rights, Claim(0.0, 1, 11), "arm", "pi0", rates, 0.0)
        assert refusal is not None
        assert (refusal.kind, refusal.cause) == (RefusalKind.REJECTED, "payload_not_allowed")
    assert hold_to(rights, Claim(0.0, 1, 10), "arm", "pi0", rates, 0.0) is None


def test_the_models_of_all_entries_are_allowed_and_no_others() -> None:
    known = policies({"model": "pi0", "models": ["pi0"]}, {"model": "act", "models": ["act", "vlm"]})
    allowed = {model: known.rights("arm", model) for model in ("pi0", "act", "vlm", "other")}
    assert {model for model, rights in allowed.items() if rights is not None and rights.model_is_allowed} == {
        "pi0",
        "act",
        "vlm",
    }


def test_a_limit_holds_for_models_without_an_entry_and_an_entry_sets_its_own() -> None:
    known = policies({"model": "pi0", "max_rate_hz": 60.0}, {"model": "act", "max_rate_hz": 10.0, "max_urgency": 0.5})
    rates = {model: rights.max_rate_hz for model in ("pi0", "act", "vlm") if (rights := known.rights("arm", model))}
    assert rates == {"pi0": 60.0, "act": 10.0, "vlm": 10.0}
    pi0 = known.rights("arm", "pi0")
    assert pi0 is not None
    assert pi0.max_urgency == 0.5


def test_a_client_without_limits_costs_nothing() -> None:
    assert policies({"model": "pi0", "latency_budget_ms": 30.0}).rights("arm", "pi0") is None
    assert policies().rights("leg", "pi0") is None
