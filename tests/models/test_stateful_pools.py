"""What holds of a model's pool holds of each of its replicas, which are pools of their own where they keep state."""

from __future__ import annotations

import pytest
from tests.models.floor import Floor

from inferential.replica.condition import HUNG_AFTER_S, ModelState
from inferential.scheduler.request import REFUSED, RefusalKind, whole_pool

A = {"target": "p:A"}


@pytest.mark.parametrize(
    ("pool", "keeps_state", "whole"),
    [("m@a%0", True, "m@a"), ("m%app#M#r1", True, "m"), ("m@a", True, "m@a"), ("m%x", False, "m%x"), ("m", False, "m")],
)
def test_the_pool_of_a_request_is_that_of_all_replicas(pool: str, keeps_state: bool, whole: str) -> None:
    floor = Floor(A)
    request = floor.ask("arm")
    request.pool, request.keeps_state = pool, keeps_state
    assert whole_pool(request) == whole


def test_it_hangs_when_a_call_of_each_replica_does() -> None:
    floor = Floor(A, stateful=["m"], up={"m": ("0", "1")})
    floor.ask("arm")
    (first,) = floor.begin()
    floor.now += HUNG_AFTER_S / 2
    floor.ask("other")
    (second,) = floor.begin()
    assert {first.model_id, second.model_id} == {"m%0", "m%1"}
    floor.now += HUNG_AFTER_S / 2 + 1
    floor.expire()
    assert floor.models.condition("m").state is ModelState.READY
    floor.now += HUNG_AFTER_S / 2
    floor.expire()
    assert floor.models.condition("m").state is ModelState.HUNG


def test_a_breaker_that_is_open_has_requests_refused_early_with_the_reason() -> None:
    floor = Floor({**A, "breaker": {"failures": 3}}, stateful=["m"])
    for _ in range(3):
        floor.ask("arm")
        (batch,) = floor.begin()
        floor.end(batch, "no weights")
    request = floor.ask("arm")
    assert request.state is REFUSED
    assert request.refusal is not None
    assert request.refusal.kind is RefusalKind.MODEL_FAILING
    assert "no weights" in request.refusal.reason


def test_what_waits_in_vain_for_one_that_was_up_says_why() -> None:
    floor = Floor(A, stateful=["m"])
    floor.serve("arm", 0.002)
    floor.backend.down = {"m"}
    floor.looks()
    request = floor.ask("arm")
    assert request.state is not REFUSED
    floor.now += 31.0
    floor.expire()
    assert request.refusal is not None
    assert request.refusal.kind is RefusalKind.MODEL_LOADING
    assert "it is down" in request.refusal.reason


def test_its_profile_begins_with_its_warm_up() -> None:
    floor = Floor({}, stateful=["m"], up={"m": ("0", "1")})
    floor.backend.latencies = [(1, 0.02), (2, 0.03)]
    floor.configure(A)
    part = floor.ask("arm").pool
    assert floor.engine.profiles.of(part, "").typical(2) == 0.03
