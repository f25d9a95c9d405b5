"""What differs, and what of it takes a restart."""

from __future__ import annotations

from typing import Any

from inferential.config import InferentialConfig
from inferential.config.changes import Change, diff


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    return diff(InferentialConfig.model_validate(old), InferentialConfig.model_validate(new))


def test_equal_configurations_differ_in_nothing() -> None:
    assert changes({}, {"scheduling": {"strategy": "deadline_aware"}}) == []


def test_each_field_that_differs_is_told_in_the_order_of_the_schema() -> None:
    new = {"scheduling": {"deadline_aware": {"age_weight": 1.0}, "strategy": "x"}, "server": {"drain_timeout_s": 1.0}}
    assert changes({}, new) == [
        Change("server.drain_timeout_s", 5.0, 1.0, True),
        Change("scheduling.strategy", "deadline_aware", "x", True),
        Change("scheduling.deadline_aware.age_weight", 15.0, 1.0, True),
    ]


def test_sockets_backends_and_targets_take_a_restart() -> None:
    new = {
        "transport": {"bind": "tcp://*:1"},
        "models": {"known": {"arm": {"target": "a:b", "max_inflight": 2}}},
        "ray": {"address": "auto"},
        "observations": {"max_tensors": 2},
    }
    assert {change.path: change.live for change in changes({}, new)} == {
        "transport.bind": False,
        "models.known.arm.target": False,
        "models.known.arm.max_inflight": True,
        "ray": False,
        "observations.max_tensors": True,
    }


def test_an_entry_that_is_gone_goes_back_to_its_defaults() -> None:
    old = {"models": {"known": {"arm": {"max_inflight": 2}, "hand": {}}}}
    assert changes(old, {}) == [Change("models.known.arm.max_inflight", 2, None, True)]


def test_a_list_is_one_change() -> None:
    known = [{"id": "a", "model": "m"}, {"id": "b", "model": "m"}]
    (change,) = changes({"clients": {"known": known[:1]}}, {"clients": {"known": known}})
    assert str(change) == "clients.known: 1 entry -> 2 entries"


def test_a_change_reads_as_a_line_that_says_when_it_takes_a_restart() -> None:
    first, second = changes({}, {"transport": {"bind": "tcp://*:1"}, "metrics": {"enabled": False}})
    assert str(first) == "transport.bind: tcp://*:5555 -> tcp://*:1 (takes effect at the next start)"
    assert str(second) == "metrics.enabled: true -> false"
