"""Defaults of the contract, and the rules that a type alone does not tell."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from inferential import config as package
from inferential.config import ClientsConfig, InferentialConfig, TransportConfig
from inferential.config import schema as schema_module
from inferential.config import watcher as watcher_module
from inferential.config.changes import in_force


def test_the_defaults_are_those_of_the_contract() -> None:
    sections = {
        "transport": {"bind": "tcp://*:5555", "recv_hwm": 1000, "send_hwm": 1000},
        "scheduling": {
            "strategy": "deadline_aware",
            "max_queue_size": 1000,
            "request_ttl_ms": 5000.0,
            "overflow_policy": "drop_oldest",
            "max_retries": 0,
            "deadline_aware": {
                "cadence_weight": 45.0,
                "urgency_weight": 25.0,
                "steps_weight": 15.0,
                "priority_weight": 10.0,
                "age_weight": 15.0,
            },
            "batch_optimized": {"max_batch_size": 8, "max_wait_ms": 10.0},
            "priority_tiered": {"num_tiers": 3},
        },
        "clients": {"defaults": {"latency_budget_ms": 50.0, "priority": 1}, "known": [], "accept_unknown": True},
        "response_tracking": {"overdue_multiplier": 1.5, "disconnect_timeout_s": 10.0, "cadence_alpha": 0.3},
        "observations": {"max_staleness_ms": 1000.0, "temporal_alignment_threshold_ms": 20.0},
        "metrics": {"ring_buffer_size": 10000, "enabled": True},
    }
    assert InferentialConfig.model_validate(sections) == InferentialConfig()


@pytest.mark.parametrize("name", package.__all__)
def test_every_name_of_the_package_is_there(name: str) -> None:
    assert getattr(package, name) is not None
    assert name in dir(package)


def test_names_keep_their_places() -> None:
    assert watcher_module.ConfigWatcher is package.ConfigWatcher
    assert schema_module.InferentialConfig is InferentialConfig
    with pytest.raises(AttributeError, match="Nothing"):
        _ = package.Nothing


def test_a_client_is_known_once_for_each_model() -> None:
    twice = [{"id": "a", "model": "m"}, {"id": "a", "model": "n"}, {"id": "a", "model": "m"}]
    with pytest.raises(ValidationError, match=r"\[0\] and \[2\] are both for client 'a' and model 'm'"):
        ClientsConfig.model_validate({"known": twice})
    assert len(ClientsConfig.model_validate({"known": twice[:2]}).known) == 2


@pytest.mark.parametrize("bind", ["tcp://*:5555", "tcp://127.0.0.1:0", "ipc:///tmp/x.sock", "tcp://[::1]:5555"])
def test_an_address_has_a_transport_that_robots_can_use(bind: str) -> None:
    assert TransportConfig(bind=bind).bind == bind


@pytest.mark.parametrize(
    "bind", ["localhost:5555", "udp://*:5555", "tcp://", "tcp://nonsense", "tcp://127.0.0.1", "ipc://", ""]
)
def test_other_addresses_are_refused(bind: str) -> None:
    with pytest.raises(ValidationError):
        TransportConfig(bind=bind)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_no_number_is_infinite_or_none(value: float) -> None:
    with pytest.raises(ValidationError):
        InferentialConfig.model_validate({"server": {"drain_timeout_s": value}})
    with pytest.raises(ValidationError):
        InferentialConfig.model_validate({"scheduling": {"deadline_aware": {"age_weight": value}}})
    with pytest.raises(ValidationError):
        InferentialConfig.model_validate({"response_tracking": {"overdue_multiplier": value}})


@pytest.mark.parametrize(
    "sections",
    [
        {"http": {"token": ""}},
        {"gateways": {"openpi": {"model": "m", "api_keys": [""]}}},
        {"gateways": {"gr00t": {"model": "m", "api_token": ""}}},
    ],
)
def test_an_empty_secret_is_an_error(sections: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        InferentialConfig.model_validate(sections)


def test_a_running_server_keeps_its_keys_whatever_a_new_file_says() -> None:
    keys = {"mode": "required", "server_key": "s.key_secret", "clients": "clients"}
    secure, open_to_all = InferentialConfig.model_validate({"security": keys}), InferentialConfig()
    assert in_force(secure, open_to_all).security == secure.security
    assert in_force(open_to_all, secure).security == open_to_all.security


def test_several_addresses_may_say_each_whether_it_asks_for_keys() -> None:
    bind = ["ipc:///run/robots.sock", {"address": "tcp://*:5555", "security": "off"}]
    found = TransportConfig.model_validate({"bind": bind}).addresses
    assert [(one.bind, one.security) for one in found] == [("ipc:///run/robots.sock", None), ("tcp://*:5555", "off")]


@pytest.mark.parametrize(
    ("bind", "problem"),
    [
        ([], "expected at least one address"),
        (["tcp://*:5555", "robots"], "entry 1: expected an address like"),
        (["tcp://*:5555", "tcp://*:5555"], "expected each address once"),
        ([{"security": "off"}], "entry 0: no address"),
        ([{"address": "tcp://*:1", "keys": "off"}], "entry 0: unknown key 'keys'"),
        ([{"address": "tcp://*:1", "security": "on"}], "expected off, optional or required, got 'on'"),
        ([["tcp://*:1"]], "entry 0: expected an address like .*, got a list"),
        (5555, "got 5555"),
    ],
)
def test_a_list_of_addresses_that_cannot_be_used_is_explained(bind: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TransportConfig.model_validate({"bind": bind})
