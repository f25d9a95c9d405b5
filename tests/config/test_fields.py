"""What is said of each field: path, expectation, unit, meaning."""

from __future__ import annotations

from typing import Any

import pytest

from inferential.config import InferentialConfig
from inferential.config.fields import find, format_path, format_value, items, leaves, values


def test_every_field_has_a_description() -> None:
    assert [node.path for node in leaves() if not node.description] == []


def test_every_duration_and_size_has_its_unit_in_its_name() -> None:
    units = {node.path: node.unit for node in leaves()}
    assert units["scheduling.request_ttl_ms"] == "ms"
    assert units["server.drain_timeout_s"] == "s"
    assert units["observations.max_payload_bytes"] == "bytes"
    assert units["scheduling.max_queue_size"] == ""


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (("scheduling", "max_queue_size"), "a whole number of at least 1"),
        (("scheduling", "request_ttl_ms"), "a number above 0"),
        (("response_tracking", "cadence_alpha"), "a number above 0 and at most 1"),
        (("transport", "recv_hwm"), "a whole number of at least 1 and at most 2147483647"),
        (("scheduling", "overflow_policy"), "drop_oldest or reject_newest"),
        (("scheduling", "supersede"), "aware, all or off"),
        (("transport", "type"), "zmq"),
        (("transport", "bind"), "an address like tcp://*:5555 or ipc:///run/robots.sock"),
        (
            ("models", "known", "arm", "target"),
            "module:object, onnx:FILE, ray:application, or openpi://HOST:PORT or null",
        ),
        (("models", "known", "arm", "max_inflight"), "a whole number of at least 1 or null"),
        (("metrics", "enabled"), "true or false"),
        (("scheduling", "strategy"), "a string"),
        (("clients", "known", 3, "id"), "a string that is not empty"),
        (("clients", "known"), "a list of tables"),
        (("models", "known"), "a table"),
        (("metrics",), "a table"),
        (("ray",), "a table"),
    ],
)
def test_what_is_expected_is_said_in_words(key: tuple[Any, ...], expected: str) -> None:
    node = find(key)
    assert node is not None
    assert node.expected == expected


@pytest.mark.parametrize("key", [("nothing",), ("metrics", "x"), ("metrics", "enabled", "x"), ("a", "b", "c")])
def test_there_is_no_node_where_the_schema_has_none(key: tuple[str, ...]) -> None:
    assert find(key) is None


def test_only_sockets_gateways_and_backends_take_a_restart() -> None:
    fixed = {node.path for node in leaves() if not node.live}
    assert fixed == {
        "transport.type",
        "transport.bind",
        "transport.recv_hwm",
        "transport.send_hwm",
        "ray",
        *(f"gateways.openpi.{name}" for name in ("model", "host", "port", "api_keys", "metadata", "timeout_ms")),
        *(f"gateways.openpi.{name}" for name in ("tls_certificate", "tls_key")),
        *(f"gateways.gr00t.{name}" for name in ("model", "host", "port", "api_token", "modality_config", "timeout_ms")),
        *(f"security.{name}" for name in ("mode", "server_key", "clients")),
        *(f"http.{name}" for name in ("port", "host", "token", "tls_certificate", "tls_key")),
        *(f"gateways.lerobot.{name}" for name in ("model", "host", "port", "fps", "wait_ms", "timeout_ms")),
        "gateways.lerobot.skip_similar",
        *(
            f"gateways.{gateway}.{name}"
            for gateway in ("act", "kserve", "kserve_grpc")
            for name in ("model", "host", "port", "token", "timeout_ms", "tls_certificate", "tls_key")
        ),
        "gateways.act.dt_ms",
        "gateways.kserve_grpc.max_request_bytes",
        "recording.path",
        *(f"foxglove.{name}" for name in ("host", "port")),
        *(f"otlp.{name}" for name in ("endpoint", "headers", "service_name", "traces", "metrics")),
        *(f"otlp.{name}" for name in ("sample_ratio", "metrics_interval_s")),
    }


def test_paths_are_written_so_that_they_can_be_read() -> None:
    assert format_path(("clients", "known", 3, "id")) == "clients.known[3].id"
    assert format_path(("models", "known", "pi0.5", "target")) == 'models.known."pi0.5".target'
    assert format_path(("models", "known", "app/arm-1")) == "models.known.app/arm-1"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (5.0, "5.0"),
        (0.25, "0.25"),
        ({"a": [1]}, '{"a": [1]}'),
        ("x" * 100, "x" * 77 + "..."),
        (InferentialConfig.model_validate({"metrics": {"enabled": False}}), '{"metrics": {"enabled": false}}'),
    ],
)
def test_values_are_written_on_one_line(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_values_lists_all_there_are_with_entries_by_name_and_lists_whole() -> None:
    result = {
        "models": {"known": {"arm": {"max_inflight": 3}}},
        "clients": {"known": [{"id": "a", "model": "arm"}, {"id": "b", "model": "arm"}]},
    }
    found = {node.path: (node, value) for node, value in values(InferentialConfig.model_validate(result))}
    assert found["models.known.arm.max_inflight"][1] == 3
    assert found["ray"][1] == {}
    node, known = found["clients.known"]
    assert [item.path for item, value in items(node, known) if value == "b"] == ["clients.known[1].id"]
    assert list(items(*found["ray"])) == [found["ray"]]
