"""What differs between configurations, and which changes need a restart."""

from __future__ import annotations

from typing import Any

from inferential.config import InferentialConfig
from inferential.config.changes import Change, diff, in_force
from inferential.config.fields import leaves, values


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    return diff(InferentialConfig.model_validate(old), InferentialConfig.model_validate(new))


def test_equal_configurations_differ_in_nothing() -> None:
    assert changes({}, {"scheduling": {"strategy": "deadline_aware"}}) == []


def test_each_field_that_differs_is_reported_in_the_order_of_the_schema() -> None:
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
        "models.known.arm.target": True,
        "models.known.arm.max_inflight": True,
        "ray": False,
        "observations.max_tensors": True,
    }


def test_an_entry_that_is_gone_goes_back_to_its_defaults() -> None:
    old = {"models": {"known": {"arm": {"max_inflight": 2}, "hand": {}}}}
    assert changes(old, {}) == [Change("models.known.arm.max_inflight", 2, None, True)]


def test_a_service_that_is_turned_on_or_off_is_one_change() -> None:
    services = {"recording": {"only": "late"}, "http": {"port": 1}, "gateways": {"openpi": {"model": "arm"}}}
    turned_on, turned_off = changes({}, services), changes(services, {})
    assert {change.path: (change.old, change.new, change.live) for change in turned_on} == {
        "gateways.openpi": ("off", "on", False),
        "recording": ("off", "on", False),
        "http": ("off", "on", False),
    }
    assert {change.path: (change.new, change.live) for change in turned_off} == {
        "gateways.openpi": ("off", False),
        "recording": ("off", True),
        "http": ("off", False),
    }
    assert changes({"recording": {}}, {"recording": {"only": "late"}}) == [
        Change("recording.only", "all", "late", True)
    ]


def test_a_service_that_was_on_at_the_start_goes_on_without_a_restart() -> None:
    began = InferentialConfig.model_validate({"recording": {}, "http": {}})
    without = InferentialConfig()
    assert [(change.path, change.live) for change in diff(without, began, began)] == [
        ("recording", True),
        ("http", False),
    ]


def test_a_list_is_one_change() -> None:
    known = [{"id": "a", "model": "m"}, {"id": "b", "model": "m"}]
    (change,) = changes({"clients": {"known": known[:1]}}, {"clients": {"known": known}})
    assert str(change) == "clients.known: 1 entry -> 2 entries"


def test_a_change_reads_as_a_line_that_says_when_it_takes_a_restart() -> None:
    first, second = changes({}, {"transport": {"bind": "tcp://*:1"}, "metrics": {"enabled": False}})
    assert str(first) == "transport.bind: tcp://*:5555 -> tcp://*:1 (takes effect at the next start)"
    assert str(second) == "metrics.enabled: true -> false"


# What is in force after a reload


def taken_on(running: dict[str, Any], new: dict[str, Any]) -> InferentialConfig:
    return in_force(InferentialConfig.model_validate(running), InferentialConfig.model_validate(new))


def test_every_field_is_classified_as_live_or_as_needing_a_restart() -> None:
    assert [node.path for node in leaves() if node.effect is None] == []


def test_live_fields_are_taken_on() -> None:
    config = taken_on({}, {"scheduling": {"strategy": "round_robin"}, "models": {"known": {"arm": {"device": "gpu"}}}})
    assert config.scheduling.strategy == "round_robin"
    assert config.models.known["arm"].device == "gpu"


def test_fields_that_need_a_restart_keep_their_running_values() -> None:
    running = {
        "transport": {"bind": "tcp://*:1"},
        "models": {"profiles": "a.json", "known": {"arm": {"target": "a:b"}, "leg": {"target": "a:c"}}},
        "http": {"port": 1},
    }
    new = {
        "transport": {"bind": "tcp://*:2"},
        "models": {
            "profiles": "b.json",
            "known": {"arm": {"target": "a:x", "max_inflight": 3}, "hand": {"target": "a:d"}},
        },
        "otlp": {},
        "gateways": {"openpi": {"model": "arm"}},
        "ray": {"address": "auto"},
    }
    config = taken_on(running, new)
    assert config.transport.bind == "tcp://*:1"
    assert config.models.profiles == "b.json"
    assert config.models.known["arm"].target == "a:x"
    assert config.models.known["arm"].max_inflight == 3
    assert config.models.known["hand"].target == "a:d"
    assert (config.http and config.http.port, config.otlp, config.gateways.openpi, config.ray) == (1, None, None, {})


def test_what_is_in_force_differs_from_the_new_configuration_only_in_what_needs_a_restart() -> None:
    running = InferentialConfig.model_validate({"http": {"port": 1}, "models": {"known": {"arm": {"target": "a:b"}}}})
    new = InferentialConfig.model_validate(
        {"metrics": {"enabled": False}, "models": {"known": {"arm": {"device": "g"}}}}
    )
    config = in_force(running, new)
    assert {change.live for change in diff(config, new)} == {False}
    assert {change.live for change in diff(running, config)} == {True}
    assert all(node.effect is not None for node, _ in values(config))


def test_a_model_that_was_removed_is_gone() -> None:
    running = {"models": {"known": {"arm": {"target": "a:b", "max_inflight": 2}, "leg": {"max_inflight": 2}}}}
    assert taken_on(running, {}).models.known == {}


def test_neither_configuration_is_changed() -> None:
    running, new = InferentialConfig(), InferentialConfig.model_validate({"transport": {"bind": "tcp://*:2"}})
    assert in_force(running, new).transport.bind == "tcp://*:5555"
    assert new.transport.bind == "tcp://*:2"
