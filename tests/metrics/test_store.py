"""A series of points: its statistics are numpy's, and its memory is bounded."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferential.metrics import MetricSeries

VALUES = st.floats(-1e9, 1e9)


def at(now: float) -> Any:
    return patch.object(time, "monotonic", return_value=now)


@given(values=st.lists(VALUES, min_size=1, max_size=200))
def test_percentiles_are_those_of_numpy(values: list[float]) -> None:
    series = MetricSeries()
    for value in values:
        series.record(value)
    stats = series.get_stats()
    assert stats is not None
    assert stats.count == len(values)
    assert stats.min == min(values)
    assert stats.max == max(values)
    assert stats.avg == pytest.approx(np.mean(values), abs=1e-6)
    assert (stats.p50, stats.p95, stats.p99) == tuple(np.percentile(values, [50, 95, 99]))


def test_only_points_of_the_window_count() -> None:
    series = MetricSeries()
    for now, value in ((0.0, 100.0), (400.0, 1.0), (500.0, 3.0)):
        with at(now):
            series.record(value)
    with at(600.0):
        stats = series.get_stats(window_seconds=200)
        assert stats is not None
        assert (stats.count, stats.avg) == (2, 2.0)
        assert series.get_stats(window_seconds=50) is None


def test_labels_choose_the_points_that_have_them_among_others() -> None:
    series = MetricSeries()
    series.record(1.0, {"client": "a", "model": "m"})
    series.record(2.0, {"client": "b", "model": "m"})
    series.record(3.0, {"client": "b", "model": "n"})
    stats = series.get_stats({"client": "b"})
    assert stats is not None
    assert (stats.count, stats.avg) == (2, 2.5)
    assert series.get_latest({"model": "m"}) == 2.0
    assert series.get_latest({"client": "c"}) is None
    assert series.get_latest() == 3.0


def test_labels_that_are_changed_afterwards_change_no_point() -> None:
    series = MetricSeries()
    labels = {"client": "a"}
    series.record(1.0, labels)
    labels["client"] = "b"
    series.record(2.0, labels)
    assert [point.labels for point in series] == [{"client": "a"}, {"client": "b"}]


def test_the_order_of_labels_does_not_matter() -> None:
    series = MetricSeries()
    series.record(1.0, {"client": "a", "model": "m"})
    series.record(2.0, {"model": "m", "client": "a"})
    assert series.get_latest({"client": "a"}) == 2.0
    assert len({tuple(sorted(point.labels.items())) for point in series}) == 1


def test_the_oldest_points_go_first() -> None:
    series = MetricSeries(max_size=5)
    for value in range(12):
        series.record(float(value))
    assert len(series) == 5
    assert [point.value for point in series] == [7.0, 8.0, 9.0, 10.0, 11.0]


def test_a_new_label_set_never_inherits_the_points_of_one_that_was_dropped() -> None:
    series = MetricSeries(max_size=1000, max_label_sets=4)
    for client in range(50):
        series.record(float(client), {"client": str(client)})
        for known in range(client + 1):
            stats = series.get_stats({"client": str(known)})
            assert stats is None or (stats.count, stats.avg) == (1, float(known))
    assert len(series._indexes) <= 4


def test_what_is_forgotten_is_gone_and_the_rest_stays() -> None:
    series = MetricSeries(max_size=10)
    for n in range(8):
        series.record(float(n), {"client": str(n % 2)})
    series.forget("client", {"1"})
    assert [point.value for point in series] == [0.0, 2.0, 4.0, 6.0]
    assert series.get_latest() == 6.0
    for n in range(20):
        series.record(float(n), {"client": "2"})
    assert len(series) == 10
    series.forget("client", {"0", "2"})
    assert len(series) == 0
    assert series.get_stats() is None
    assert not series._times


def test_smaller_bounds_keep_the_newest() -> None:
    series = MetricSeries(max_size=10)
    for n in range(25):
        series.record(float(n), {"client": str(n)})
    series.resize(4, 3)
    assert [point.value for point in series] == [22.0, 23.0, 24.0]
    series.record(99.0, {"client": "24"})
    assert [point.value for point in series][-1] == 99.0


class SeriesMachine(RuleBasedStateMachine):
    """A series beside a plain list of what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.series = MetricSeries(max_size=7, max_label_sets=100)
        self.points: list[tuple[float, str]] = []

    @rule(value=VALUES, client=st.sampled_from("abc"))
    def record(self, value: float, client: str) -> None:
        self.series.record(value, {"client": client})
        self.points = [*self.points, (value, client)]

    @rule(client=st.sampled_from("abc"))
    def forget(self, client: str) -> None:
        # Forgotten points leave holes in the ring, which later points push out.
        self.points = [(value, "-" if own == client else own) for value, own in self.points]
        self.series.forget("client", {client})
        if not len(self.series):
            self.points = []

    @invariant()
    def holds_the_newest(self) -> None:
        expected = [(value, client) for value, client in self.points[-7:] if client != "-"]
        assert [(point.value, point.labels["client"]) for point in self.series] == expected
        assert len(self.series) == len(expected)


TestSeriesMachine = SeriesMachine.TestCase
TestSeriesMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
