"""A series of points: its statistics are numpy's, and its memory is bounded."""

from __future__ import annotations

import itertools
import time
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferential.metrics import MetricSeries
from inferential.metrics.store import Rows

VALUES = st.floats(-1e9, 1e9)


def at(now: float) -> Any:
    return patch.object(time, "monotonic", return_value=now)


@given(values=st.lists(VALUES, min_size=1, max_size=200))
def test_statistics_are_those_of_numpy(values: list[float]) -> None:
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


LABELS = st.dictionaries(st.sampled_from(["client", "model"]), st.sampled_from("abc"))


@given(
    points=st.lists(st.tuples(st.floats(0.0, 10.0), VALUES, LABELS), max_size=60),
    asked=LABELS,
    window_s=st.floats(0.0, 200.0),
    ring=st.integers(1, 40),
)
def test_any_window_of_any_labels_has_the_statistics_of_those_points(
    points: list[tuple[float, float, dict[str, str]]], asked: dict[str, str], window_s: float, ring: int
) -> None:
    series = MetricSeries(max_size=ring)
    now, kept = 0.0, []
    for interval, value, labels in points:
        now += interval
        kept.append((now, value, labels))
        with at(now):
            series.record(value, labels)
    matching = [point for point in kept if asked.items() <= point[2].items()]
    chosen = [
        value for when, value, labels in kept[-ring:] if when >= now - window_s and asked.items() <= labels.items()
    ]
    with at(now):
        stats = series.get_stats(asked, window_s)
        assert series.get_latest(asked) == (matching[-1][1] if matching else None)
    if not chosen:
        assert stats is None
        return
    assert stats is not None
    assert (stats.count, stats.min, stats.max) == (len(chosen), min(chosen), max(chosen))
    assert stats.avg == pytest.approx(np.mean(chosen), abs=1e-6)
    assert (stats.p50, stats.p95, stats.p99) == pytest.approx(tuple(np.percentile(chosen, [50, 95, 99])))


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


def test_what_is_no_number_is_refused_and_changes_nothing() -> None:
    series = MetricSeries(max_size=2)
    for value in (1.0, 2.0, 3.0):
        series.record(value)
        with pytest.raises(TypeError):
            series.record(None)  # type: ignore[arg-type]
    assert [point.value for point in series] == [2.0, 3.0]
    assert series.get_latest() == 3.0


def test_the_latest_value_of_a_label_set_outlives_its_points() -> None:
    series = MetricSeries(max_size=2)
    series.record(1.0, {"client": "slow"})
    for value in (2.0, 3.0):
        series.record(value, {"client": "fast"})
    assert series.get_latest({"client": "slow"}) == 1.0
    assert series.get_stats({"client": "slow"}) is None


def test_a_list_of_points_is_that_of_the_moment_it_was_asked_for() -> None:
    series = MetricSeries(max_size=3)
    for client in "abc":
        series.record(1.0, {"client": client})
    points = iter(series)
    series.forget({"client": "a"})
    series.record(1.0, {"client": "d"})
    assert [point.labels.get("client") for point in points] == ["a", "b", "c"]
    assert [point.labels.get("client") for point in series] == ["b", "c", "d"]


def test_a_new_label_set_never_inherits_the_points_of_one_that_was_dropped() -> None:
    series = MetricSeries(max_size=1000, max_label_sets=4)
    for client in range(50):
        series.record(float(client), {"client": str(client)})
        for known in range(client + 1):
            stats = series.get_stats({"client": str(known)})
            assert (stats is not None) == (known > client - 4)
            assert stats is None or (stats.count, stats.avg) == (1, float(known))
    stats = series.get_stats()
    assert stats is not None
    assert stats.count == 50
    assert series.sizes()["label_set_indexes"] <= 6


def test_the_label_that_goes_is_the_one_recorded_longest_ago() -> None:
    series = MetricSeries(max_label_sets=3)
    for client in ("a", "b", "c", "a", "d"):
        series.record(1.0, {"client": client})
    assert [point.labels.get("client") for point in series] == ["a", None, "c", "a", "d"]


def test_of_many_label_sets_an_eighth_goes_at_once() -> None:
    series = MetricSeries(max_label_sets=16)
    for client in range(17):
        series.record(1.0, {"client": str(client), "model": "m"})
    assert len(series) == 17
    assert [point.labels for point in series][:2] == [{"model": "m"}] * 2
    assert series.get_latest({"client": "1"}) is None
    assert series.get_latest({"client": "2"}) == 1.0


def test_what_was_measured_of_a_client_counts_after_its_label_is_forgotten() -> None:
    series = MetricSeries(max_size=10)
    for n in range(8):
        series.record(float(n), {"client": str(n % 2), "model": "m"})
    series.forget({"client": "1"})
    assert [point.value for point in series] == [float(n) for n in range(8)]
    assert (series.get_latest(), series.get_latest({"client": "1"}), series.get_latest({"model": "m"})) == (
        6.0,
        None,
        6.0,
    )
    for labels, count in ((None, 8), ({"model": "m"}, 8), ({"client": "0"}, 4)):
        stats = series.get_stats(labels)
        assert stats is not None
        assert stats.count == count
    assert series.get_stats({"client": "1"}) is None
    series.forget({"client": "0"}, {"model": "m"})
    assert [point.labels for point in series] == [{}] * 8
    assert series.get_latest() == 6.0
    assert series.label_set_count == 1


def test_only_what_has_all_the_labels_is_forgotten() -> None:
    series = MetricSeries()
    for client, model in (("a", "m"), ("a", "n"), ("b", "m")):
        series.record(1.0, {"client": client, "model": model})
    series.forget({"client": "a", "model": "m"}, {"client": "unknown"}, {})
    series.forget()
    assert [tuple(point.labels.values()) for point in series] == [(), ("a", "n"), ("b", "m")]


def test_other_bounds_keep_the_newest() -> None:
    series = MetricSeries(max_size=10)
    for n in range(25):
        series.record(float(n), {"client": str(n)})
    series.resize(4, 3)
    assert [point.value for point in series] == [21.0, 22.0, 23.0, 24.0]
    assert [point.labels for point in series][:2] == [{}, {"client": "22"}]
    series.record(99.0, {"client": "24"})
    assert [point.value for point in series] == [22.0, 23.0, 24.0, 99.0]
    series.record(100.0, {"client": "24"})
    assert [point.value for point in series] == [23.0, 24.0, 99.0, 100.0]
    series.resize(6, 3)
    series.record(101.0, {"client": "24"})
    assert [point.value for point in series] == [23.0, 24.0, 99.0, 100.0, 101.0]


Own = tuple[str | None, str | None]
Point = tuple[float, Own]


class SeriesMachine(RuleBasedStateMachine):
    """A series beside a plain list of what it should hold."""

    SIZE, LABEL_SETS = 7, 4  # an eighth of four label sets is one: the bound is exact

    def __init__(self) -> None:
        super().__init__()
        self.series = MetricSeries(self.SIZE, self.LABEL_SETS)
        self.points: list[Point] = []
        self.recency: list[Own] = []  # label sets, longest unused first
        self.folded: set[Own] = set()

    def drop(self, gone: list[Own]) -> None:
        self.recency = [own for own in self.recency if own not in gone]
        for each in gone:
            fewer: Own = (None, each[1])
            if fewer not in self.folded and self.folded:  # an eighth of four is none, but at least one
                fewer = (None, None)
            self.folded.add(fewer)
            self.points = [(value, fewer if own == each else own) for value, own in self.points]

    @rule(value=VALUES, client=st.sampled_from("abc"), model=st.sampled_from("mn"))
    def record(self, value: float, client: str, model: str) -> None:
        own = (client, model)
        self.series.record(value, {"client": client, "model": model})
        if own in self.recency:
            self.recency.remove(own)
        elif len(self.recency) == self.LABEL_SETS:
            self.drop([self.recency[0]])
        self.recency.append(own)
        self.points = [*self.points, (value, own)][-self.SIZE :]

    @rule(clients=st.sets(st.sampled_from("abc")))
    def forget(self, clients: set[str]) -> None:
        self.series.forget(*({"client": client} for client in clients))
        self.drop([own for own in self.recency if own[0] in clients])

    @invariant()
    def holds_the_newest(self) -> None:
        found = [(point.value, (point.labels.get("client"), point.labels.get("model"))) for point in self.series]
        assert found == self.points
        assert len(self.series) == len(self.points)

    @invariant()
    def counts_each_label_set_by_itself(self) -> None:
        for client in "abc":
            stats = self.series.get_stats({"client": client})
            assert (0 if stats is None else stats.count) == sum(own[0] == client for _, own in self.points)

    @invariant()
    def is_bounded(self) -> None:
        assert self.series.label_set_count == len(self.recency) + len(self.folded)
        assert len(self.folded) <= 2
        pairs = [(("client", client), ("model", model)) for client, model in (*self.recency, *self.folded)]
        assert self.series.sizes()["labels"] == len({label for pair in pairs for label in pair if label[1] is not None})


TestSeriesMachine = SeriesMachine.TestCase
TestSeriesMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@given(
    points=st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from("abcdef")), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    size=st.integers(1, 20),
    label_sets=st.integers(2, 8),
)
def test_points_added_together_are_found_as_if_added_one_by_one(
    points: list[tuple[float, str]], cuts: list[int], size: int, label_sets: int
) -> None:
    together, alone = MetricSeries(size, label_sets), MetricSeries(size, label_sets)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(points)), len(points)]
    for begin, end in itertools.pairwise(edges):
        part = points[begin:end]
        keys = [(("client", name),) for _, name in part]
        rows = Rows.of([float(begin + n) for n in range(len(part))], keys)
        together.extend(rows, [value for value, _ in part])
    for value, name in points:
        alone.record(value, {"client": name})
    if len({name for _, name in points}) <= label_sets:  # no label set is dropped: then the order is all there is
        found = [(point.value, point.labels) for point in together]
        assert found == [(point.value, point.labels) for point in alone]
        assert together.get_latest() == alone.get_latest()
    assert len(together) <= size
    for point in together:
        assert (point.value, point.labels.get("client", dict(points).get(point.value))) in points or not point.labels
    if points:
        assert together.get_latest({"client": points[-1][1]}) == points[-1][0]


def test_a_label_set_does_not_give_way_to_a_new_one_of_its_own_rows() -> None:
    series = MetricSeries(50, 4)
    for value, name in enumerate("ABCD"):
        series.record(float(value), {"client": name})
    series.extend(Rows.of([1.0, 1.0, 1.0], [(("client", name),) for name in "AEA"]), [4.0, 5.0, 6.0])
    assert [(point.value, point.labels.get("client")) for point in series] == [
        (0.0, "A"),
        (1.0, None),
        (2.0, "C"),
        (3.0, "D"),
        (4.0, "A"),
        (5.0, "E"),
        (6.0, "A"),
    ]
