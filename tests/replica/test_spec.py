"""What a `ModelProcess` takes, and what it refuses by name."""

from __future__ import annotations

from typing import Any

import pytest

from inferential import ModelProcess, ModelThread


def test_each_replica_has_the_common_environment_and_its_own() -> None:
    spec = ModelProcess("a:b", env={"A": "1"}, replicas=[{"GPU": "0"}, {"GPU": "1", "A": "2"}])
    assert spec.environments() == [{"A": "1", "GPU": "0"}, {"A": "2", "GPU": "1"}]
    assert ModelProcess("a:b", replicas=2).environments() == [{}, {}]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"target": "module"}, ValueError, "target: expected module:object, got 'module'"),
        ({"target": print}, TypeError, "target: expected module:object as text"),
        ({"args": {"x": object()}}, TypeError, "args: 'x': expected a value that JSON can hold"),
        ({"replicas": 0}, ValueError, "replicas: expected a number above 0, got 0"),
        ({"replicas": []}, ValueError, "replicas: expected at least one map"),
        ({"load_timeout_s": 0}, ValueError, "load_timeout_s: expected a number above 0"),
        ({"call_timeout_ms": -1}, ValueError, "call_timeout_ms: expected a number above 0"),
        ({"memory_limit_mb": float("inf")}, ValueError, "memory_limit_mb: expected a number above 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ModelProcess(**{"target": "a:b", **given})


def test_a_thread_checks_its_time_out() -> None:
    with pytest.raises(ValueError, match="call_timeout_ms: expected a number above 0, got 0"):
        ModelThread(print, call_timeout_ms=0)
