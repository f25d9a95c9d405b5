"""Turns what a server did into what is simulated: its requests as arrivals, their times as models, their ends as a run.

What a recording does not say is read from it: how many calls ran at once, how long a call of each size takes, and
whether a robot's newer observations took the place of those that waited.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from inferential.sim.virtual.fleet_file import FleetModel, SizeFigures
from inferential.sim.virtual.generate import latencies_s
from inferential.sim.virtual.world import Arrival, Call, ModelSpec, Outcome, Run

STRATEGY = "as it was"
"""Stands for the strategy in the run of what happened."""
_ENOUGH = 20
"""Calls that would run beside another model's by chance, from which on they mean something."""
_SELDOM = 0.05  # of those by chance, so few at most did


@dataclass(frozen=True, slots=True)
class Happened:
    """One request that a server had.

    Attributes:
        at: seconds, of any clock, when it came.
        client_id, client_type, model_id: who asked what.
        end: "answered", or the kind of refusal in lower case.
        server_ms: from its coming to its end.
        queue_ms, inference_ms, batch_size: of its call; 0 where none ended.
        budget_ms: from its coming to its deadline.
        priority, urgency, steps_remaining: as the robot said; None: it did not say what is left.
    """

    at: float
    client_id: str
    client_type: str
    model_id: str
    end: str
    server_ms: float
    queue_ms: float
    inference_ms: float
    batch_size: int
    budget_ms: float
    priority: int = 1
    urgency: float = 0.0
    steps_remaining: int | None = None


def models_of(happened: Iterable[Happened]) -> list[ModelSpec]:
    """Returns the models that answered, with the latencies, batch sizes and calls at once that were seen.

    Models whose calls never ran at once, although many would have by chance, share a device.

    A model that could take larger batches than were seen, or more calls, is not known to.
    """
    rows: dict[str, list[Happened]] = defaultdict(list)
    for one in happened:
        if one.end == "answered" and one.batch_size:
            rows[one.model_id].append(one)
    models = [_model(model_id, found) for model_id, found in sorted(rows.items())]
    spans = {model.model_id: [(began, ended) for began, ended, _ in _calls(rows[model.model_id])] for model in models}
    devices = _devices({model.model_id: spans[model.model_id] for model in models if model.max_inflight == 1})
    return [replace(model, device=devices.get(model.model_id)) for model in models]


def run_of(happened: Sequence[Happened]) -> Run:
    """Returns what happened as a run, whose arrivals can be simulated; it begins with the first."""
    ordered = sorted(happened, key=lambda one: one.at)
    start = ordered[0].at if ordered else 0.0
    kept = _keeping_all(ordered)
    outcomes = []
    for one in ordered:
        at = one.at - start
        arrival = Arrival(
            at,
            one.client_id,
            one.model_id,
            one.client_type or one.model_id,
            at + min(one.budget_ms, 1e9) / 1e3,
            one.priority,
            one.urgency,
            latest=(one.client_id, one.model_id) not in kept,
            steps_remaining=one.steps_remaining,
        )
        started = at + one.queue_ms / 1e3 if one.end == "answered" else None
        outcomes.append(Outcome(arrival, at + one.server_ms / 1e3, one.end, started))
    seconds = max((outcome.ended_at for outcome in outcomes), default=0.0)
    calls = [
        Call(found[0].model_id, 0, began - start, ended - start, len(found), sum(_in_time(one) for one in found))
        for began, ended, found in _calls(ordered)
    ]
    return Run(STRATEGY, seconds, outcomes, calls, (0.0, 0.0))


def busy_before(run: Run) -> dict[str, tuple[float, float]]:
    """Returns from when to when each model was busy with what had come before a run began.

    That is until its first call began, of which the run knows: the requests that it begins with had waited for others.
    Robots that each wait for an answer before they ask again come no faster than they are answered: simulated without
    what was there before them, they would never wait.
    """
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    for one in run.outcomes:
        if one.started_at is not None:
            model_id = one.arrival.model_id
            begins[model_id] = min(one.arrival.at, begins.get(model_id, math.inf))
            ends[model_id] = min(one.started_at, ends.get(model_id, math.inf))
    return {model_id: (at, ends[model_id]) for model_id, at in begins.items()}


def _model(model_id: str, answered: list[Happened]) -> ModelSpec:
    by_size: dict[int, list[float]] = defaultdict(list)
    calls = _calls(answered)
    for _, _, rows in calls:
        by_size[rows[0].batch_size].append(max(rows[0].inference_ms, 1e-3))
    median_ms = {size: statistics.median(times) for size, times in by_size.items()}
    # A larger call that was seen to be quicker was seen too rarely.
    longest, profile = 0.0, []
    for size in sorted(median_ms):
        longest = max(longest, median_ms[size])
        profile.append(SizeFigures(batch_size=size, median_ms=longest))
    factors = [math.log(ms / median_ms[size]) for size, times in by_size.items() for ms in times]
    spread = min(statistics.pstdev(factors), 1.0) if len(factors) > 1 else 0.0
    at_once = _most_at_once([(began, ended) for began, ended, _ in calls])
    return ModelSpec(model_id, latencies_s(FleetModel(profile=profile)), spread, max_inflight=at_once)


def _devices(spans: dict[str, list[tuple[float, float]]]) -> dict[str, str]:
    """Returns the device of each model that shares one, by when its calls began and ended: the first of its models."""
    devices: dict[str, str] = {}
    ends = [ended for own in spans.values() for _, ended in own]
    begins = [began for own in spans.values() for began, _ in own]
    seconds = max(max(ends, default=0.0) - min(begins, default=0.0), 1e-9)
    for one, other in combinations(spans, 2):
        by_chance = sum(
            len(spans[left]) * sum(ended - began for began, ended in spans[right]) / seconds
            for left, right in ((one, other), (other, one))
        )
        if by_chance >= _ENOUGH and _together(spans[one], spans[other]) <= _SELDOM * by_chance:
            shared, former = devices.setdefault(one, one), devices.setdefault(other, other)
            devices |= {name: shared for name, device in devices.items() if device == former}
    return devices


def _together(some: list[tuple[float, float]], others: list[tuple[float, float]]) -> int:
    """Returns how many calls begin while one of the other model runs, but for the last tenth of it."""
    count = 0
    for these, those in ((some, others), (others, some)):
        begins = [began for began, _ in those]
        for at, _ in these:
            number = bisect_right(begins, at) - 1
            count += number >= 0 and at < those[number][0] + 0.9 * (those[number][1] - those[number][0])
    return count


def _calls(happened: Iterable[Happened]) -> list[tuple[float, float, list[Happened]]]:
    """Returns the calls that ran: when each began and ended, and its requests; in order of their beginning."""
    calls: dict[tuple[str, float, int], list[Happened]] = defaultdict(list)
    for one in happened:
        if one.end == "answered" and one.batch_size:
            calls[one.model_id, one.inference_ms, one.batch_size].append(one)
    found: list[tuple[float, float, list[Happened]]] = []
    for (_, inference_ms, size), rows in calls.items():
        rows.sort(key=_began)
        # Two calls that took the same to the microsecond differ in when they began.
        part: list[Happened] = []
        for one in rows:
            if part and (len(part) == size or _began(one) - _began(part[0]) > 1e-3):
                found.append((_began(part[0]), _began(part[0]) + inference_ms / 1e3, part))
                part = []
            part.append(one)
        found.append((_began(part[0]), _began(part[0]) + inference_ms / 1e3, part))
    return sorted(found, key=lambda call: call[0])


def _began(one: Happened) -> float:
    return one.at + one.queue_ms / 1e3


def _in_time(one: Happened) -> bool:
    return one.server_ms <= one.budget_ms


def _most_at_once(spans: list[tuple[float, float]]) -> int:
    """Returns how many of the spans overlap at most; those that touch within a tenth do not.

    What one in a hundred alone does is a slip of the clock's, as a server that was held up notes times late.
    """
    edges = [edge for began, ended in spans for edge in ((began, 1), (began + 0.9 * (ended - began), -1))]
    running, begun = 0, Counter[int]()
    for _, change in sorted(edges):
        running += change
        if change > 0:
            begun[running] += 1
    return max((level for level, count in begun.items() if count > len(spans) / 100), default=1)


def _keeping_all(ordered: Iterable[Happened]) -> set[tuple[str, str]]:
    """Returns the robots, by client and model, that had an older request answered although a newer one had come."""
    waiting_until: dict[tuple[str, str], float] = {}
    found = set()
    for one in ordered:
        key = one.client_id, one.model_id
        if one.end == "answered":
            if one.at < waiting_until.get(key, -math.inf):
                found.add(key)
            waiting_until[key] = _began(one)
    return found
