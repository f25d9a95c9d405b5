"""What a strategy costs per request, at a steady number of requests waiting.

It measures no server and checks nothing: figures of this machine, for a person or (with --json) a script.

Each figure is the best of several rounds, in microseconds:

    submit+take  a request comes, then the best of its model is taken
    submit       a request comes
    remove       a waiting request goes
    evict        a request comes to a full queue, less the coming
    expire       tick() ends requests that outlived their time to live

The clock that the strategies see is a made-up one, 100 us further with every request that comes, so that scores
change as they do in a busy server.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, ModelAwareScheduler, create_scheduler, register_policy

STRATEGIES = ("batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin", "slo_aware")
COLUMNS = ("submit+take", "submit", "remove", "evict", "expire")


@register_policy("bench_oldest")
def oldest(request: InferenceRequest) -> float:
    """First received, first served."""
    return -request.received_at


class Clock:
    """What the strategies take for time.monotonic()."""

    def __init__(self) -> None:
        self.now = 1e5

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()
STEP_S = 100e-6


class Load:
    """Requests as a fleet sends them, from a fixed seed."""

    def __init__(self, clients: int, budgets: int) -> None:
        self._random = random.Random(1)
        self._clients = [f"robot-{n}" for n in range(clients)]
        self._budgets = [20.0 + 80.0 * n / budgets for n in range(budgets)]

    def requests(self, count: int) -> list[InferenceRequest]:
        """`count` requests for one model, received one after the other from now on."""
        pick = self._random
        return [
            InferenceRequest(
                client_id=pick.choice(self._clients),
                model_id="m",
                identity=b"",
                envelope=b"",
                payload=b"",
                received_at=CLOCK.now + n * STEP_S,
                urgency=pick.random(),
                steps_remaining=pick.choice((None, 0, 1, 3, 8)),
                time_until_next=pick.uniform(-0.02, 0.1),
                latency_budget_ms=pick.choice(self._budgets),
                priority=pick.randrange(4),
            )
            for n in range(count)
        ]


def build(strategy: str, policy: str | None, **options: Any) -> ModelAwareScheduler:
    """A scheduler of that strategy."""
    config = SchedulingConfig.model_validate({"strategy": strategy, "request_ttl_ms": 1e9} | options)
    scheduler = create_scheduler(config)
    assert isinstance(scheduler, ModelAwareScheduler)
    if policy is not None:
        scheduler.use_policy(policy)  # type: ignore[attr-defined]
    return scheduler


def measure(strategy: str, policy: str | None, waiting: int, budgets: int, rounds: int, size: int) -> dict[str, float]:
    """Microseconds by column."""
    best: dict[str, float] = {}

    def timed(column: str, count: int, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        work()
        took_us = (time.perf_counter() - begun) / count * 1e6
        best[column] = min(best.get(column, took_us), took_us)

    def come(scheduler: ModelAwareScheduler, requests: list[InferenceRequest]) -> None:
        for request in requests:
            CLOCK.now += STEP_S
            scheduler.submit(request)

    def come_and_go(scheduler: ModelAwareScheduler, requests: list[InferenceRequest]) -> None:
        for request in requests:
            CLOCK.now += STEP_S
            scheduler.submit(request)
            scheduler.next_batch_for_model("m", 1)

    def go(scheduler: ModelAwareScheduler, requests: list[InferenceRequest]) -> None:
        for request in requests:
            scheduler.remove(request)

    for _ in range(rounds):
        load = Load(clients=waiting, budgets=budgets)
        scheduler = build(strategy, policy, max_queue_size=10 * (waiting + size))
        come(scheduler, load.requests(waiting))
        come_and_go(scheduler, load.requests(min(size, waiting)))
        timed("submit+take", size, partial(come_and_go, scheduler, load.requests(size)))
        fresh = load.requests(size)
        timed("submit", size, partial(come, scheduler, fresh))
        random.Random(2).shuffle(fresh)
        timed("remove", size, partial(go, scheduler, fresh))

        full = build(strategy, policy, max_queue_size=waiting)
        come(full, load.requests(waiting))
        fresh = load.requests(size)
        for request in fresh:
            request.priority = 0  # so that none is refused for its tier
        timed("overflow", size, partial(come, full, fresh))

        short = build(strategy, policy, max_queue_size=waiting, request_ttl_ms=1.0)
        come(short, load.requests(waiting))
        CLOCK.now += 1.0
        timed("expire", waiting, short.tick)
        assert short.queue_len() == 0
    best["evict"] = max(0.0, best.pop("overflow") - best["submit"])
    return {column: round(best[column], 2) for column in COLUMNS}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, nargs="+", default=[1_000, 10_000], help="requests that wait")
    parser.add_argument("--budgets", type=int, default=4, help="distinct latency budgets in the fleet")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()

    time.monotonic = CLOCK
    # Lanes of batch_optimized are full all the time, so a take always gives something.
    cases: list[tuple[str, str, str | None, int]] = [(name, name, None, args.budgets) for name in STRATEGIES]
    cases.append(("deadline_aware, all budgets distinct", "deadline_aware", None, 0))
    cases.append(("deadline_aware, a policy", "deadline_aware", "bench_oldest", args.budgets))
    rows = []
    for waiting in args.waiting:
        for title, strategy, policy, budgets in cases:
            # A take that asks every request is measured on fewer of them: it would take minutes.
            size = 1_000 if policy is None and budgets else max(20, 200_000 // waiting)
            figures = measure(strategy, policy, waiting, budgets or waiting, args.rounds, size)
            rows.append({"case": title, "waiting": waiting, "unit": "us"} | figures)
    if args.json:
        json.dump({"python": sys.version.split()[0], "rows": rows}, sys.stdout, indent=2)
        print()
        return
    print(f"{'us per request':38}{'waiting':>8}" + "".join(f"{column:>13}" for column in COLUMNS))
    for row in rows:
        print(f"{row['case']:38}{row['waiting']:>8}" + "".join(f"{row[column]:>13.2f}" for column in COLUMNS))


if __name__ == "__main__":
    main()
