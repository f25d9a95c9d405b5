"""The server's metrics as Prometheus scrapes them (text format 0.0.4).

Metrics declared in `metrics.names` become counters and histograms; others, which users record, become a summary
`inferential_custom_NAME` (`_count`, `_sum`) and a gauge of the last value `inferential_last_NAME`. No metric has the
label "client": a fleet's ids would make as many time series (Prometheus, "Metric and label naming").
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import mul
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from inferential.metrics import names
from inferential.metrics.store import LabelSet
from inferential.replica.condition import ModelState
from inferential.server import Server

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
"""Label of all models, or causes, beyond the first MAX_VALUES."""
MAX_VALUES = 64
_MAX_KEYS = 8192
_PREFIX = "inferential_"
# From a control period's fraction to seconds: VLAs at 20 to 100 ms, and what goes wrong above.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_BYTES = (1e3, 1e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 2.5e7)
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
_INVALID = re.compile(r"[^a-zA-Z0-9_]")
_CUSTOM_PREFIX = f"{_PREFIX}custom_"
_LAST_PREFIX = f"{_PREFIX}last_"


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, values: Sequence[float], bounds: Sequence[float]) -> None:
        self.total = sum(values, self.total)
        for place, count in Counter(map(bisect_left, repeat(bounds), values)).items():
            self.counts[place] += count


class _CustomSeries:
    """A user's metric with one combination of labels."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.last = 0.0


_WORKER = ("model", "replica")
_GPU = ("node", "gpu")


class Exporter:
    """Collects from a server, from now on.

    Args:
        server: whose metrics.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: dict[str, set[str]] = {names.MODEL: set(), names.ERROR: set()}
        self._keys: dict[tuple[str, ...], dict[LabelSet, tuple[str, ...]]] = {}  # by the names of the labels
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {}
        self._counters: dict[str, dict[tuple[str, ...], float]] = {}
        self._bounds: dict[str, tuple[float, Sequence[float]]] = {}
        for metric in names.METRICS.values():
            if not metric.exported:
                continue
            if metric.unit == "1":
                self._counters[metric.name] = {}
            else:
                self._histograms[metric.name] = {}
                self._bounds[metric.name] = _scale_and_bounds(metric.unit)
        self._custom: dict[str, dict[LabelSet, _CustomSeries]] = {}
        self._labels = {
            metric.name: tuple(label for label in metric.labels if label != names.CLIENT)
            for metric in names.METRICS.values()
        }
        server.metrics.add_sink(self._take)

    def families(self) -> Iterator[Metric]:
        """Yields all families, each as it is when it is asked for.

        One takes a fraction of a millisecond, all of them several: the event loop is left to robots between them.
        """
        self._server.metrics.flush()
        if self._server.running:
            self._begin_counters()
        for name, counts in self._counters.items():
            metric = names.METRICS[name]
            counter = CounterMetricFamily(_PREFIX + name, metric.description, labels=self._labels[name])
            for key, value in list(counts.items()):
                counter.add_metric(key, value)
            yield counter
        for name, by_key in self._histograms.items():
            metric = names.METRICS[name]
            _, bounds = self._bounds[name]
            histogram = HistogramMetricFamily(_PREFIX + _named(name), metric.description, labels=self._labels[name])
            for key, one in list(by_key.items()):
                histogram.add_metric(key, _cumulative(bounds, one.counts), one.total)
            yield histogram
        yield from self._custom_families()
        if self._server.running:
            yield from self._gauges()

    def _begin_counters(self) -> None:
        """Has counters, those of every model, begin at 0: a rate needs a value from before the first event."""
        models = [self._bounded(names.MODEL, model_id) for model_id in self._server.model_ids]
        for name, counts in self._counters.items():
            if not self._labels[name]:
                counts.setdefault((), 0.0)
            elif self._labels[name] == (names.MODEL,):
                for model_id in models:
                    counts.setdefault((model_id,), 0.0)

    def _custom_families(self) -> Iterator[Metric]:
        for name, by_labels in list(self._custom.items()):
            series = list(by_labels.items())
            labels = sorted({label for key, _ in series for label, _ in key})  # one that a point lacks is empty
            summary = SummaryMetricFamily(_CUSTOM_PREFIX + name, "recorded by the user", labels=labels)
            last = GaugeMetricFamily(_LAST_PREFIX + name, "recorded by the user: last value", labels=labels)
            for key, one in series:
                values = [dict(key).get(label, "") for label in labels]
                summary.add_metric(values, one.count, one.total)
                last.add_metric(values, one.last)
            yield summary
            yield last

    def _gauges(self) -> Iterator[Metric]:
        clients = GaugeMetricFamily(f"{_PREFIX}clients", "clients by state", labels=["state"])
        for state, count in self._server.robots_by_state.items():
            clients.add_metric([state], count)
        yield clients
        status = self._server.overview(most_batches=1)
        yield GaugeMetricFamily(f"{_PREFIX}uptime_seconds", "since the server started", value=status.uptime_s)
        yield GaugeMetricFamily(f"{_PREFIX}draining", "1 while no more requests are taken", value=status.draining)
        waiting = GaugeMetricFamily(f"{_PREFIX}queue_requests", "requests that wait", labels=["model"])
        running = GaugeMetricFamily(f"{_PREFIX}in_flight_calls", "calls that run", labels=["model"])
        replicas = GaugeMetricFamily(f"{_PREFIX}replicas", "replicas that take calls", labels=["model"])
        for model in status.models[:MAX_VALUES]:
            waiting.add_metric([model.model_id], model.waiting)
            running.add_metric([model.model_id], model.in_flight)
            replicas.add_metric([model.model_id], len(model.replicas) if model.max_inflight else 0)
        yield from (waiting, running, replicas)
        states = GaugeMetricFamily(f"{_PREFIX}model_state", "1 for the state of a model", labels=["model", "state"])
        for model in status.models[:MAX_VALUES]:
            for one in ModelState:
                states.add_metric([model.model_id, one.value], model.state == one.value)
        yield states
        memory = GaugeMetricFamily(
            f"{_PREFIX}worker_memory_bytes", "resident memory of a model's process", labels=_WORKER
        )
        on_gpu = GaugeMetricFamily(
            f"{_PREFIX}worker_gpu_memory_bytes", "GPU memory of a model's process", labels=_WORKER
        )
        cpu = CounterMetricFamily(f"{_PREFIX}worker_cpu_seconds", "CPU time of a model's process", labels=_WORKER)
        for worker in status.workers[:MAX_VALUES]:
            labels = [worker.model_id, worker.replica]
            memory.add_metric(labels, worker.memory_mb * 1e6)
            cpu.add_metric(labels, worker.cpu_s)
            if worker.gpu_memory_mb is not None:
                on_gpu.add_metric(labels, worker.gpu_memory_mb * 1e6)
        yield from (memory, cpu, on_gpu)
        busy = GaugeMetricFamily(f"{_PREFIX}gpu_utilization", "share of time that a GPU computes", labels=_GPU)
        used = GaugeMetricFamily(f"{_PREFIX}gpu_memory_bytes", "memory of a GPU that is used", labels=_GPU)
        for node in status.nodes[:MAX_VALUES]:
            for gpu in node.gpus:
                labels = [node.address, str(gpu.index)]
                if gpu.utilisation_percent is not None:
                    busy.add_metric(labels, gpu.utilisation_percent / 100)
                if gpu.memory_used_mb is not None:
                    used.add_metric(labels, gpu.memory_used_mb * 1e6)
        yield from (busy, used)

    def _take(self, name: str, values: Sequence[float], keys: Sequence[LabelSet]) -> None:
        counts, by_key = self._counters.get(name), self._histograms.get(name)
        if counts is not None:
            for key, column in self._by_key(name, values, keys):
                counts[key] = sum(column, counts.get(key, 0.0))
        elif by_key is not None:
            scale, bounds = self._bounds[name]
            for key, column in self._by_key(name, values, keys):
                one = by_key.get(key)
                if one is None:
                    one = by_key[key] = _Histogram(bounds)
                one.add(list(map(mul, column, repeat(scale))), bounds)
        elif name not in self._labels:
            self._take_custom(name, values, keys)

    def _by_key(
        self, name: str, values: Sequence[float], keys: Sequence[LabelSet]
    ) -> Iterable[tuple[tuple[str, ...], Sequence[float]]]:
        """Returns the values by what is left of their labels: mostly the same for all that were recorded together."""
        labels = self._labels[name]
        known = self._keys.setdefault(labels, {})
        found = list(map(known.get, keys))
        if None in found:
            if len(known) > _MAX_KEYS:
                known.clear()
            found = [known.setdefault(key, self._key(labels, key)) for key in keys]
        first = found[0]
        if found.count(first) == len(found):
            return ((cast("tuple[str, ...]", first), values),)
        by_key: dict[tuple[str, ...], list[float]] = {}
        for key, value in zip(cast("list[tuple[str, ...]]", found), values, strict=True):
            by_key.setdefault(key, []).append(value)
        return by_key.items()

    def _take_custom(self, name: str, values: Sequence[float], keys: Sequence[LabelSet]) -> None:
        by_labels = self._custom.setdefault(_INVALID.sub("_", name), {})
        for value, labels in zip(values, keys, strict=True):
            key = tuple(sorted((_label_name(label), text) for label, text in labels if label != names.CLIENT))
            bounded = tuple((label, self._bounded(label, text)) for label, text in key)
            one = by_labels.get(bounded)
            if one is None:
                one = by_labels[bounded] = _CustomSeries()
            one.count += 1
            one.total += value
            one.last = float(value)

    def _key(self, labels: Sequence[str], key: LabelSet) -> tuple[str, ...]:
        values = dict(key)
        return tuple([self._bounded(label, values.get(label, "")) for label in labels])

    def _bounded(self, label: str, value: str) -> str:
        known = self._known.setdefault(label, set())
        if value in known:
            return value
        if len(known) >= MAX_VALUES:
            return OTHER
        known.add(value)
        return value


def text_of(family: Metric) -> bytes:
    """Returns a family as lines of the page that is scraped."""
    return generate_latest(_Collected(family))


class _Collected:
    """A family, in the place of a registry of all."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def _label_name(label: str) -> str:
    """Returns a valid label name; those that begin with two underscores are Prometheus' own."""
    valid = _INVALID.sub("_", label)
    return f"label_{valid}" if valid.startswith("__") or valid[:1].isdigit() or not valid else valid


def _named(name: str) -> str:
    return f"{name.removesuffix('_ms')}_seconds" if name.endswith("_ms") else name


def _scale_and_bounds(unit: str) -> tuple[float, Sequence[float]]:
    if unit == "ms":
        return 1e-3, _SECONDS
    return 1.0, _BYTES if unit == "bytes" else _ROWS


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
