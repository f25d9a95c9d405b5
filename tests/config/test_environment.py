"""`INFERENTIAL_*`: names, and how values are read."""

from __future__ import annotations

from typing import Any

import pytest

from inferential.config import ConfigError, load_config
from inferential.config.environment import read_environment, variable
from inferential.config.fields import leaves


def values(env: dict[str, str], below: dict[str, Any] | None = None) -> list[Any]:
    return [layer.values for layer in read_environment(env, below or {})]


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("round_robin", "scheduling.strategy", "round_robin"),
        ("'round_robin'", "scheduling.strategy", "round_robin"),
        ("007", "scheduling.strategy", "007"),
        ("*", "scheduling.strategy", "*"),
        ("", "scheduling.strategy", ""),
        ("ipc:///tmp/a #b: c", "transport.bind", "ipc:///tmp/a #b: c"),
        ("off", "scheduling.supersede", "off"),
        ("7", "scheduling.max_queue_size", 7),
        ("1e3", "scheduling.request_ttl_ms", 1000.0),
        ("true", "metrics.enabled", True),
        ("NO", "metrics.enabled", False),
        ("0", "metrics.enabled", False),
        ("on", "metrics.enabled", True),
        ("perhaps", "metrics.enabled", "perhaps"),
        ("{enabled: false}", "metrics", {"enabled": False}),
        ('[{"id": "a", "model": "m"}]', "clients.known", [{"id": "a", "model": "m"}]),
        ("{address: auto}", "ray", {"address": "auto"}),
        ("auto", "ray.address", "auto"),
        ("4", "ray.cpus", 4),
    ],
)
def test_a_value_is_read_as_what_its_field_is(text: str, path: str, value: Any) -> None:
    expected = value
    for name in reversed(path.split(".")):
        expected = {name: expected}
    assert values({variable(path): text}) == [expected]


@pytest.mark.parametrize(("text", "value"), [("null", None), ("", None), ("pkg:Model", "pkg:Model")])
def test_a_string_that_may_be_null_can_be_made_null(text: str, value: Any) -> None:
    layers = values({"INFERENTIAL_MODELS__KNOWN__ARM__TARGET": text})
    assert layers == [{"models": {"known": {"arm": {"target": value}}}}]


def test_names_may_have_any_case() -> None:
    assert values({"inferential_Scheduling__STRATEGY": "x"}) == [{"scheduling": {"strategy": "x"}}]


def test_other_variables_are_left_alone() -> None:
    assert values({"PATH": "/bin", "INFERENTIALS": "x", "_INFERENTIAL_COMPLETE": "x", "MY_INFERENTIAL_A": "1"}) == []


def test_a_model_id_takes_the_case_it_has_in_the_file_else_lower_case() -> None:
    below = {"models": {"known": {"Arm": {}}}}
    env = {"INFERENTIAL_MODELS__KNOWN__ARM__MAX_INFLIGHT": "2", "INFERENTIAL_MODELS__KNOWN__HAND__MAX_INFLIGHT": "3"}
    assert values(env, below) == [
        {"models": {"known": {"Arm": {"max_inflight": 2}}}},
        {"models": {"known": {"hand": {"max_inflight": 3}}}},
    ]


def test_single_fields_outrank_whole_tables() -> None:
    env = {"INFERENTIAL_SCHEDULING__STRATEGY": "b", "INFERENTIAL_SCHEDULING": "{strategy: a, max_retries: 2}"}
    config = load_config(env=env)
    assert config.scheduling.strategy == "b"
    assert config.scheduling.max_retries == 2


def test_two_names_for_one_field_are_an_error() -> None:
    env = {"INFERENTIAL_METRICS__ENABLED": "1", "inferential_metrics__enabled": "0"}
    with pytest.raises(ConfigError) as caught:
        values(env)
    assert str(caught.value) == (
        "metrics.enabled: set twice, by INFERENTIAL_METRICS__ENABLED too (inferential_metrics__enabled)"
    )


def test_all_values_that_cannot_be_read_are_reported_at_once() -> None:
    env = {
        "INFERENTIAL_CLIENTS__KNOWN": "[{",
        "INFERENTIAL_SCHEDULING__MAX_QUEUE_SIZE": "{",
        "INFERENTIAL_RAY": "[" * 9999,
    }
    with pytest.raises(ConfigError) as caught:
        values(env)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["clients.known", "ray", "scheduling.max_queue_size"]
    assert lines[0].startswith("clients.known: not valid YAML: ")
    assert lines[0].endswith(", got '[{' (INFERENTIAL_CLIENTS__KNOWN)")
    assert "nested too deeply" in lines[1]


def test_every_field_but_those_in_lists_has_a_variable() -> None:
    for node in leaves():
        if "[" not in node.path and node.path != "ray":
            name = variable(node.path.replace("<id>", "arm"))
            (layer,) = read_environment({name: "1"}, {})
            assert layer.name == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("INFERENTIAL_SCHEDULING_STRATEGY", "INFERENTIAL_SCHEDULING__STRATEGY"),
        ("INFERENTIAL_BIND", "INFERENTIAL_TRANSPORT__BIND"),
        ("INFERENTIAL_SCHEDULING__STRATGY", "INFERENTIAL_SCHEDULING__STRATEGY"),
        ("INFERENTIAL_METRIC__ENABLED", "INFERENTIAL_METRICS"),
    ],
)
def test_an_unknown_name_is_an_error_that_tells_the_one_meant(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(env={name: "x"})
    assert str(caught.value).endswith(f"unknown key; did you mean {hint}? ({name})")


@pytest.mark.parametrize("name", ["INFERENTIAL_", "INFERENTIAL_QQQ", "INFERENTIAL_QQQ____X"])
def test_an_unknown_name_like_none_gets_a_list_of_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key; there is: server, transport, .*\(INFERENTIAL_"):
        load_config(env={name: "x"})


SERVICES = {
    "INFERENTIAL_SERVICE_HOST": "10.0.0.1",
    "INFERENTIAL_SERVICE_PORT": "5555",
    "INFERENTIAL_SERVICE_PORT_ROBOTS": "5555",
    "INFERENTIAL_PORT": "tcp://10.0.0.1:5555",
    "INFERENTIAL_PORT_5555_TCP": "tcp://10.0.0.1:5555",
    "INFERENTIAL_PORT_5555_TCP_PROTO": "tcp",
    "INFERENTIAL_PORT_5555_TCP_PORT": "5555",
    "INFERENTIAL_PORT_5555_TCP_ADDR": "10.0.0.1",
    "INFERENTIAL_GPU_SERVICE_HOST": "10.0.0.2",
    "INFERENTIAL_GPU_PORT_8080_TCP": "tcp://10.0.0.2:8080",
    "INFERENTIAL_NAME": "/web/inferential",
    "INFERENTIAL_ENV_PATH": "/usr/bin",
    "INFERENTIAL_ENV_INFERENTIAL_HTTP__PORT": "8080",
    "INFERENTIAL_SERVICE_PORT_A__B": "5555",
    "INFERENTIAL_PORT_5555_TCP_START": "tcp://172.17.0.2:5555",
    "INFERENTIAL_PORT_5555_TCP_END": "tcp://172.17.0.2:5560",
    "INFERENTIAL_PORT_5555_TCP_PORT_START": "5555",
    "INFERENTIAL_PORT_5555_TCP_PORT_END": "5560",
}


@pytest.mark.parametrize("name", SERVICES)
def test_what_an_orchestrator_sets_for_a_service_of_our_name_is_no_setting(name: str) -> None:
    assert read_environment({name: SERVICES[name]}, {}) == []


@pytest.mark.parametrize(
    "name", ["INFERENTIAL_PORT", "INFERENTIAL_NAME", "INFERENTIAL_HTTP_PORT", "INFERENTIAL_HTTP__SERVICE_PORT"]
)
def test_a_name_like_theirs_with_a_value_of_another_kind_is_reported_as_a_mistake(name: str) -> None:
    assert read_environment({name: "8080"}, {}) != []
