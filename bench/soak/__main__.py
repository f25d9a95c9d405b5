"""`python -m bench.soak --minutes N --seed S`: runs a soak, writes a report, and exits with the number of failures."""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.harness import RESULTS, machine
from bench.overload.serving import Serving
from bench.soak import checks
from bench.soak.faults import FAULTS
from bench.soak.robots import EXACT, FLEET, LAST_ANSWERS_S, Places, Robot, Tally

MODELS = {name: f"bench.soak.models:{name}" for name in ("quick", "chunks", "moody")}
MODELS["batch"] = "bench.soak.models:Batch"
_GATEWAYS = {"openpi": {"model": "quick", "port": 0}, "gr00t": {"model": "batch", "port": 0}}
_SAMPLE_S = 1.0
_BETWEEN_FAULTS_S = (0.2, 1.2)
_AT_ONCE = 4
_QUIET_WITHIN_S = 30.0
_JOIN_S = 60.0


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="length (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their order (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of soak.json and soak.md (bench/results)")
    args = parser.parse_args()
    report = soak(args.minutes * 60, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "soak.json").write_text(json.dumps(report, indent=2) + "\n")
    text = markdown(report)
    (args.out / "soak.md").write_text(text)
    print(text)
    return sum(not check["holds"] for check in report["checks"])


def soak(seconds: float, seed: int) -> dict[str, Any]:
    """Returns the report of one soak; no process is left behind."""
    rng = random.Random(seed)
    with Serving(MODELS, http={"port": 0}, gateways=_GATEWAYS) as serving:
        before = _sample(serving.process)
        with _sampling(serving.process) as samples:
            faults, tallies = _run(serving, seconds, rng)
        counts = _quiet(serving.places["page"])
        after = _sample(serving.process)
        code = serving.stop()
        log = serving.log_text()
    found = [
        *(checks.conserved(tally.kind, tally.sent, tally.ends, tally.twice) for tally in tallies.values()),
        *(checks.all_answered(kind, tallies[kind].ends) for kind in sorted(EXACT)),
        checks.Check("robots have no trouble", not (bad := _trouble(tallies)), bad or "none"),
        checks.books_balance(counts),
        checks.memory_is_flat(samples),
        checks.descriptors_are_back(before, after),
        checks.latency_does_not_drift(tallies["asynchronous"].round_trips),
        checks.nothing_unexpected(log),
        checks.Check("the server ends by itself, in order", code == 0, f"exit code {code}"),
    ]
    return {
        "machine": machine(),
        "seconds": seconds,
        "seed": seed,
        "checks": [{"name": one.name, "holds": one.holds, "found": one.found} for one in found],
        "faults": dict(faults),
        "requests": {tally.kind: {"sent": tally.sent, **tally.ends} for tally in tallies.values()},
        "server_counts": counts,
        "rss_mib": [round(one.rss_mib, 1) for one in samples[:: max(len(samples) // 60, 1)]],
        "descriptors": [one.descriptors for one in samples[:: max(len(samples) // 60, 1)]],
    }


def _run(serving: Serving, seconds: float, rng: random.Random) -> tuple[Counter[str], dict[str, Tally]]:
    """Has robots and faults at the server for a while; returns counts of faults, and what the robots counted."""
    stop, tallies, threads = threading.Event(), [], []
    for robot, count in FLEET:
        for _ in range(count):
            tally = Tally(robot.__name__)
            own = random.Random(rng.random())
            thread = threading.Thread(target=_robot, args=(robot, tally, serving.places, stop, own), daemon=True)
            tallies.append(tally)
            threads.append(thread)
            thread.start()
    faults = _faults(serving, time.monotonic() + seconds, rng)
    stop.set()
    until = time.monotonic() + LAST_ANSWERS_S + _JOIN_S
    for thread, tally in zip(threads, tallies, strict=True):
        thread.join(max(until - time.monotonic(), 0.1))
        if thread.is_alive():
            tally.trouble.append("it did not end")
    return faults, _by_kind(tallies)


def _robot(robot: Robot, tally: Tally, places: Places, stop: threading.Event, rng: random.Random) -> None:
    try:
        robot(tally, places, stop, rng)
    except Exception:
        tally.trouble.append(traceback.format_exc(limit=3))


def _faults(serving: Serving, until: float, rng: random.Random) -> Counter[str]:
    counts: Counter[str] = Counter()
    faults, weights = list(FAULTS), list(FAULTS.values())
    process = serving.process
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = []
        while time.monotonic() < until:
            time.sleep(rng.uniform(*_BETWEEN_FAULTS_S))
            (fault,), own = rng.choices(faults, weights), rng.random()
            running = [one for one in running if not one.done()]
            if len(running) < _AT_ONCE:
                running.append(pool.submit(fault, random.Random(own), serving.places, process))
                counts[fault.__name__] += 1
            if (
                error := next((one.exception() for one in running if one.done() and one.exception()), None)
            ) is not None:
                counts[f"could not be made: {type(error).__name__}"] += 1
    return counts


def _by_kind(tallies: list[Tally]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for tally in tallies:
        one = found.setdefault(tally.kind, Tally(tally.kind))
        one.sent += tally.sent
        one.ends += tally.ends
        one.twice += tally.twice
        one.round_trips += tally.round_trips
        one.trouble += tally.trouble
    return found


def _trouble(tallies: dict[str, Tally]) -> str:
    return " / ".join(f"{tally.kind}: {one}" for tally in tallies.values() for one in tally.trouble)[:1500]


def _sample(process: psutil.Process) -> checks.Sample:
    with process.oneshot():
        memory = process.memory_info().rss / 2**20
        return checks.Sample(time.monotonic(), memory, process.num_fds(), process.num_threads())


@contextmanager
def _sampling(process: psutil.Process) -> Iterator[list[checks.Sample]]:
    """Looks at the process once a second meanwhile."""
    samples, stop = [_sample(process)], threading.Event()

    def look() -> None:
        while not stop.wait(_SAMPLE_S):
            samples.append(_sample(process))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def _quiet(page: str) -> dict[str, float]:
    """Returns the server's totals once nothing waits or runs any more."""
    until = time.monotonic() + _QUIET_WITHIN_S
    while True:
        with urllib.request.urlopen(f"{page}/metrics", timeout=10) as answer:
            counts = totals(answer.read().decode())
        if counts["busy"] == 0 or time.monotonic() > until:
            return counts
        time.sleep(0.5)


def totals(text: str) -> dict[str, float]:
    """Returns what /metrics counts, by name, over all models; `checks.books_balance` says what "arrived" is."""
    counts: Counter[str] = Counter({"busy": 0, "arrived": 0, "failed": 0})
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("inferential_")
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            if sample.name == "inferential_payload_size_bytes_count":
                counts["arrived"] += value
            elif name in ("queue_requests", "in_flight_calls"):
                counts["busy"] += value
            elif sample.name.endswith("_total"):
                counts[name] += value
                failed = name == "dispatch_errors" and labels.get("error") != "unknown_model"
                failed |= name == "observation_errors" and bool(labels.get("model"))
                counts["failed"] += value if failed else 0
                counts["unsent_results"] += value if name == "send_errors" and labels.get("kind") == "result" else 0
    return dict(counts)


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as a page."""
    where = report["machine"]
    lines = [
        "# Soak",
        "",
        f"{report['seconds'] / 60:g} minutes, seed {report['seed']}, {where['date']}, Python {where['python']}, "
        f"{where['cpus']} CPUs. `python -m bench.soak` makes it.",
        "",
        "| what must hold | | found |",
        "|---|---|---|",
        *(_row(one["name"], one["holds"], one["found"]) for one in report["checks"]),
        "",
        "Only raw and old robots, and those of chunks, match answers themselves. The others wait for one request at a",
        "time: of them the first rows say that none was left waiting. Results that could not be sent are counted with",
        "refusals that could not, so the server's counters are checked within that margin.",
        "",
        "Faults: " + ", ".join(f"{name} {count}" for name, count in sorted(report["faults"].items())) + ".",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, holds: bool, found: str) -> str:
    text = found.replace("|", "\\|").replace("\n", " ")
    return f"| {name} | {'yes' if holds else '**NO**'} | {text} |"


if __name__ == "__main__":
    sys.exit(main())
