"""The collector: metrics by name, callbacks that cannot break it, bounds that change while it runs."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

import pytest

from inferential.config import MetricsConfig
from inferential.metrics import CallbackRegistry, MetricsCollector


def test_recorded_points_can_be_read() -> None:
    collector = MetricsCollector(MetricsConfig())
    collector.record("latency", 10.0, {"client": "a"})
    collector.record("latency", 30.0, {"client": "b"})
    assert collector.get_latest("latency") == 30.0
    assert collector.get_latest("latency", {"client": "a"}) == 10.0
    stats = collector.get_stats("latency")
    assert stats is not None
    assert stats.avg == 20.0
    assert collector.get_latest("nothing") is None
    assert collector.get_stats("nothing") is None


def test_a_snapshot_has_every_point_of_every_metric() -> None:
    collector = MetricsCollector()
    collector.record("a", 1.0, {"client": "x"})
    collector.record("b", 2.0)
    metrics = collector.snapshot().metrics
    assert metrics["a"][0]["value"] == 1.0
    assert metrics["a"][0]["labels"] == {"client": "x"}
    assert metrics["a"][0]["timestamp"] > 0
    assert [point["value"] for point in metrics["b"]] == [2.0]


def test_callbacks_are_called_for_every_point() -> None:
    collector = MetricsCollector()
    result: list[tuple[str, float, dict[str, str]]] = []

    @collector.on_metric
    def note(name: str, value: float, labels: dict[str, str]) -> None:
        result.append((name, value, labels))
        labels["client"] = "changed by the callback"

    collector.record("latency", 1.0, {"client": "a"})
    collector.record("latency", 2.0)
    assert [(name, value) for name, value, _ in result] == [("latency", 1.0), ("latency", 2.0)]
    assert collector.get_latest("latency", {"client": "a"}) == 1.0


def test_a_callback_that_raises_is_logged_once_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    registry = CallbackRegistry()
    result: list[float] = []

    def broken(name: str, value: float, labels: dict[str, str]) -> None:
        raise RuntimeError("no disk")

    registry.register(broken)
    registry.register(lambda name, value, labels: result.append(value))
    with caplog.at_level(logging.ERROR):
        for value in (1.0, 2.0, 3.0):
            registry.fire("latency", value, {})
    assert result == [1.0, 2.0, 3.0]
    assert len(caplog.records) == 1
    assert "broken" in caplog.records[0].message


def test_a_callback_of_any_kind_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(list[int]):  # cannot be hashed
        def __call__(self, name: str, value: float, labels: dict[str, str]) -> None:
            raise RuntimeError("no disk")

    registry = CallbackRegistry()
    registry.register(Broken())
    registry.register(Broken())
    for value in (1.0, 2.0):
        registry.fire("latency", value, {})
    assert len(caplog.records) == 2


def test_what_a_callback_records_is_passed_to_the_other_callbacks_only() -> None:
    collector = MetricsCollector()
    result: list[str] = []

    @collector.on_metric
    def derive(name: str, value: float, labels: dict[str, str]) -> None:
        collector.record(f"{name}_s", value / 1e3)

    collector.on_metric(lambda name, value, labels: result.append(name))
    for _ in range(2):
        collector.record("latency_ms", 20.0)
    assert result == ["latency_ms_s", "latency_ms"] * 2
    assert collector.get_latest("latency_ms_s") == 0.02


def test_a_coroutine_function_is_no_callback() -> None:
    async def note(name: str, value: float, labels: dict[str, str]) -> None: ...

    with pytest.raises(TypeError, match=r"note.*called, not awaited"):
        MetricsCollector().on_metric(note)  # type: ignore[arg-type]


def test_another_thread_may_ask_while_metrics_are_recorded() -> None:
    collector = MetricsCollector(MetricsConfig(max_label_sets=1000))
    switch_s = sys.getswitchinterval()
    recorded = threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            while not recorded.is_set():
                collector.get_stats("latency", {"client": "1"})
                collector.get_latest("latency", {"model": "m"})
                collector.snapshot()
        except Exception as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    sys.setswitchinterval(1e-6)
    try:
        asking.start()
        for n in range(3_000):
            collector.record("latency", 1.0, {"client": str(n), "model": "m"})
    finally:
        recorded.set()
        asking.join()
        sys.setswitchinterval(switch_s)
    assert errors == []


def test_disabled_it_keeps_and_calls_nothing() -> None:
    collector = MetricsCollector(MetricsConfig(enabled=False))
    collector.on_metric(lambda name, value, labels: pytest.fail("it was called"))
    collector.record("latency", 1.0)
    assert collector.get_latest("latency") is None
    assert collector.snapshot().metrics == {}


def test_bounds_and_the_switch_change_while_it_runs() -> None:
    collector = MetricsCollector(MetricsConfig(ring_buffer_size=1000))
    for value in range(300):
        collector.record("latency", float(value))
    collector.configure(MetricsConfig(ring_buffer_size=100))
    stats = collector.get_stats("latency")
    assert stats is not None
    assert (stats.count, stats.min) == (100, 200.0)
    collector.configure(MetricsConfig(ring_buffer_size=100, enabled=False))
    collector.record("latency", 1e6)
    assert collector.get_latest("latency") == 299.0


def test_what_was_measured_of_a_client_that_is_forgotten_still_counts() -> None:
    collector = MetricsCollector()
    for client in "abc":
        collector.record("latency", 1.0, {"client": client})
        collector.record("size", 1.0, {"client": client})
    collector.forget({"client": "a"}, {"client": "c"})
    for name, points in collector.snapshot().metrics.items():
        assert [point["labels"].get("client") for point in points] == [None, "b", None]
        stats = collector.get_stats(name, window_seconds=60)
        assert stats is not None
        assert stats.count == 3


def test_the_newest_point_of_a_metric_of_two_groups_is_the_newest_whichever_group_is_flushed() -> None:
    collector = MetricsCollector()
    first, second = collector.group("x"), collector.group("x", "y")
    collector.add(first, 1.0, (), (1.0,))
    for number in range(second.flush_at):
        collector.add(second, 2.0 + number, (), (2.0 + number, 0.0))
    assert not first.rows
    assert collector.get_latest("x") == 1.0 + second.flush_at


def test_flushing_a_group_leaves_groups_that_share_no_metric_with_it() -> None:
    collector = MetricsCollector()
    full, other = collector.group("x"), collector.group("y")
    collector.add(other, 1.0, (), (1.0,))
    for number in range(full.flush_at):
        collector.add(full, float(number), (), (0.0,))
    assert (len(full.rows), len(other.rows)) == (0, 1)


@pytest.mark.parametrize("watched", [False, True])
def test_rows_that_are_added_together_are_recorded_as_one_by_one(watched: bool) -> None:
    collectors = [MetricsCollector(), MetricsCollector()]
    called: list[list[tuple[str, float]]] = [[], []]
    rows = [(1.0 + at, (("client", f"arm-{at % 3}"),), (float(at), 1.0)) for at in range(200)]
    for collector, calls in zip(collectors, called, strict=True):
        if watched:
            collector.on_metric(lambda name, value, labels, calls=calls: calls.append((name, value)))
    together, one_by_one = collectors
    group = together.group("size", "count")
    together.add_rows(group, rows)
    group = one_by_one.group("size", "count")
    for row in rows:
        one_by_one.add(group, *row)
    assert together.snapshot() == one_by_one.snapshot()
    assert called[0] == called[1]
    assert len(called[0]) == (400 if watched else 0)


@pytest.mark.parametrize("watched", [False, True])
def test_an_event_that_is_added_several_times_at_once_is_recorded_as_one_by_one(watched: bool) -> None:
    collectors = [MetricsCollector(), MetricsCollector()]
    called: list[list[tuple[str, float]]] = [[], []]
    taken: list[list[Any]] = [[], []]
    runs = [((1.0 + at, (("client", f"arm-{at % 3}"),), (float(at), 1.0)), at % 4 + 1) for at in range(100)]
    for collector, calls, points in zip(collectors, called, taken, strict=True):
        collector.add_sink(lambda name, values, keys, points=points: points.append((name, list(values), list(keys))))
        if watched:
            collector.on_metric(lambda name, value, labels, calls=calls: calls.append((name, value)))
    at_once, one_by_one = collectors
    group = at_once.group("size", "count")
    for row, count in runs:
        at_once.add_run(group, row, count)
    group = one_by_one.group("size", "count")
    for row, count in runs:
        for _ in range(count):
            one_by_one.add(group, *row)
    assert at_once.snapshot() == one_by_one.snapshot()
    assert called[0] == called[1]
    by_name: list[dict[str, list[Any]]] = [{"size": [], "count": []}, {"size": [], "count": []}]
    for points, named in zip(taken, by_name, strict=True):
        for name, values, keys in points:
            named[name] += zip(values, keys, strict=True)
    assert by_name[0] == by_name[1]
    assert at_once.sizes()["metric_rows_buffered"] == 0
