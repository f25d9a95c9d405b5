"""What it costs to record a metric, to ask for its statistics, and to keep track of a client.

It measures no server and checks nothing: figures of this machine, for a person or (with --json) a script. Each is the
best of several rounds, in microseconds. Rings are full: 10,000 points, of as many label sets as the case says, each
of a client and a model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.harness import machine
from inferential.config.schema import ResponseTrackingConfig
from inferential.metrics import MetricsCollector, MetricSeries
from inferential.tracking import Fleet


@dataclass(frozen=True)
class Case:
    """What is measured: `work` does it `count` times, each time after `prepare`, which is not measured."""

    name: str
    work: Callable[[], object]
    count: int = 1
    prepare: Callable[[], object] = lambda: None


def labels_of(clients: int) -> list[dict[str, str]]:
    """One label set for each client."""
    return [{"client": f"robot-{n}", "model": "m"} for n in range(clients)]


def recording() -> list[Case]:
    """What the server pays for each point."""
    series, collector, watched, churned = MetricSeries(), MetricsCollector(), MetricsCollector(), MetricSeries()
    watched.on_metric(lambda name, value, labels: None)
    sets = labels_of(100)
    rounds = iter(range(10**9))

    def to_series() -> None:
        for labels in sets:
            series.record(1.0, labels)

    def to_collector() -> None:
        for labels in sets:
            collector.record("e2e_latency_ms", 1.0, labels)

    def to_watched() -> None:
        for labels in sets:
            watched.record("e2e_latency_ms", 1.0, labels)

    def new_label_sets() -> None:
        name = next(rounds)
        for n in range(1000):
            churned.record(1.0, {"client": f"{name}-{n}", "model": "m"})

    for _ in range(110):
        to_series()
        to_collector()
        to_watched()
    for _ in range(11):
        new_label_sets()
    return [
        Case("record, in a series", to_series, count=100),
        Case("record, in the collector", to_collector, count=100),
        Case("record, with a callback", to_watched, count=100),
        Case("record, each a new label set", new_label_sets, count=1000),
    ]


def asking(label_sets: int) -> list[Case]:
    """What a question about a full ring costs."""
    series = MetricSeries()
    sets = labels_of(label_sets)
    for n in range(20_000):
        series.record(float(n * 7919 % 1000), sets[n % label_sets])
    one, all_of = {"client": "robot-7"}, {"model": "m"}
    return [
        Case(f"get_stats, all ({label_sets} label sets)", series.get_stats),
        Case(f"get_stats, one client ({label_sets} label sets)", lambda: series.get_stats(one)),
        Case(f"get_stats, one model ({label_sets} label sets)", lambda: series.get_stats(all_of)),
        Case(f"get_latest, one client ({label_sets} label sets)", lambda: series.get_latest(one)),
    ]


def forgetting(clients: int) -> list[Case]:
    """What it costs when clients are gone, in one series that is full of points of 2,000 clients."""
    sets = labels_of(2000)
    series = MetricSeries()
    gone = [{"client": labels["client"]} for labels in sets[:clients]]

    def fill() -> None:
        for n in range(10_000):
            series.record(1.0, sets[n % len(sets)])

    return [Case(f"forget {clients} of 2000 clients", lambda: series.forget(*gone), prepare=fill)]


def tracking(clients: int) -> list[Case]:
    """What the server pays for each observation, and for looking for silence."""
    fleet = Fleet(ResponseTrackingConfig())
    ids = [(f"robot-{n}", f"robot-{n}".encode()) for n in range(clients)]
    now = 0.0

    def all_seen() -> None:
        nonlocal now
        now += 0.02
        for client_id, identity in ids:
            fleet.on_observation(client_id, "m", "arm", identity, now)

    def all_late() -> None:
        assert len(fleet.sweep(now + 0.1).overdue) == clients

    for _ in range(12):
        all_seen()
    return [
        Case(f"Fleet.on_observation ({clients} clients)", all_seen, count=clients),
        Case(f"Fleet.sweep, none late ({clients} clients)", lambda: fleet.sweep(now)),
        Case(f"Fleet.sweep, all late ({clients} clients)", all_late, prepare=all_seen),
    ]


def measure(case: Case, rounds: int) -> float:
    """Microseconds: the best of at least so many rounds."""
    best, spent, done = float("inf"), 0.0, 0
    while done < rounds or (spent < 0.1 and done < 50 * rounds):
        case.prepare()
        begun = time.perf_counter()
        case.work()
        took = time.perf_counter() - begun
        best, spent, done = min(best, took / case.count), spent + took, done + 1
    return round(best * 1e6, 2)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="least number of rounds, of which the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()

    cases = [*recording(), *asking(100), *asking(4096), *forgetting(1), *forgetting(1000), *tracking(2000)]
    rows = [{"case": case.name, "us": measure(case, args.rounds)} for case in cases]
    if args.json:
        json.dump({"machine": machine(), "rows": rows}, sys.stdout, indent=2)
        print()
        return
    for row in rows:
        print(f"{row['case']:52}{row['us']:>12.2f} us")


if __name__ == "__main__":
    main()
