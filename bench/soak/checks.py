"""What must hold after a soak: pure functions of what was counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

RSS_GROWTH_MIB = 16.0
FD_GROWTH = 4
LATENCY_RATIO = 2.0
"""Of the last third of the time to the first third after the start; medians, so that a pause counts little."""
_SIGNS = ("Traceback", "never retrieved", "ended badly", "unexpected")
_OF_MODEL = re.compile(r"\S+ \S+ ERROR inferential\.dispatch: model moody failed ")
_NEXT_RECORD = re.compile(r"\n(?=\d{4}-\d\d-\d\d )")
_ENDS = (
    "responses_served",
    "queue_full_drops",
    "requests_rejected",
    "requests_expired",
    "requests_superseded",
    "requests_outdated",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, and what was found."""

    name: str
    holds: bool
    found: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's process at one moment, in seconds of `time.monotonic()`."""

    at: float
    rss_mib: float
    descriptors: int
    threads: int


def conserved(kind: str, sent: int, ends: Mapping[str, int], twice: int) -> Check:
    """Each request of a kind of robot ended exactly once.

    It says most of robots that match answers themselves (`robots.raw`, `robots.chunked`). Those that wait for one
    request at a time cannot see a second answer: of them it says that none was left in the midst of one.
    """
    ended = sum(ends.values())
    found = f"{sent} sent, {ended} ended ({', '.join(f'{name} {count}' for name, count in sorted(ends.items()))})"
    return Check(f"{kind}: each request ends once", sent == ended and not twice, f"{found}, {twice} twice")


def all_answered(kind: str, ends: Mapping[str, int]) -> Check:
    """No request of robots that keep their connection was left without a word."""
    return Check(f"{kind}: none is left without a word", not ends.get("timeout"), f"{ends.get('timeout', 0)} timeouts")


def books_balance(counts: Mapping[str, float]) -> Check:
    """The requests that the server took in are those that it counted an end of.

    A request also ends in a result that could not be sent: "unsent_results" among them.

    Args:
        counts: totals by metric; "arrived" is the number of observations that became requests, "failed" that of model
            failures and broken images among them.
    """
    ended = sum(counts.get(name, 0) for name in _ENDS) + counts.get("failed", 0)
    unsent = counts.get("unsent_results", 0)
    found = f"{counts['arrived']:.0f} arrived, {ended:.0f} ended, {unsent:.0f} results could not be sent"
    return Check("the server's counters add up", counts["arrived"] == ended + unsent, found)


def memory_is_flat(samples: Sequence[Sample]) -> Check:
    """Resident memory does not grow from the second quarter to the last."""
    quarter = max(len(samples) // 4, 1)
    before = median(one.rss_mib for one in samples[quarter : 2 * quarter] or samples)
    after = median(one.rss_mib for one in samples[-quarter:])
    minutes = np.array([one.at for one in samples]) / 60
    half = len(samples) // 2
    slope = float(np.polyfit(minutes[half:], [one.rss_mib for one in samples[half:]], 1)[0]) if half > 2 else 0.0
    found = f"{before:.1f} -> {after:.1f} MiB, {slope:+.2f} MiB a minute in the second half"
    return Check("memory is flat", after - before <= RSS_GROWTH_MIB, found)


def descriptors_are_back(before: Sample, after: Sample) -> Check:
    """Once all clients are gone, so are their descriptors."""
    found = f"{before.descriptors} -> {after.descriptors}"
    return Check("descriptors are back", after.descriptors <= before.descriptors + FD_GROWTH, found)


def latency_does_not_drift(round_trips: Sequence[tuple[float, float]]) -> Check:
    """Round trips of the last third take about as long as those of the second sixth."""
    if len(round_trips) < 30:
        return Check("latency does not drift", False, f"only {len(round_trips)} results")
    ordered = sorted(round_trips)
    first, span = ordered[0][0], ordered[-1][0] - ordered[0][0]
    early = [ms for at, ms in ordered if span / 6 <= at - first <= span / 2]
    late = [ms for at, ms in ordered if at - first >= span * 2 / 3]
    before, after = median(early), median(late)
    p99 = float(np.percentile(early, 99)), float(np.percentile(late, 99))
    found = f"p50 {before:.2f} -> {after:.2f} ms, p99 {p99[0]:.1f} -> {p99[1]:.1f} ms"
    return Check("latency does not drift", after <= LATENCY_RATIO * before + 1.0, found)


def nothing_unexpected(log: str) -> Check:
    """Nothing in the server's log is a failure of its own; those of the model that is to fail come with a traceback."""
    records = _NEXT_RECORD.split(log)
    bad = [one for one in records if any(sign in one for sign in _SIGNS) and not _OF_MODEL.match(one)]
    found = f"{len(records)} records, {len(bad)} of them a failure"
    shown = " / ".join(bad[0].splitlines()[:13])[:800] if bad else ""
    return Check("the log has no failure of the server's own", not bad, f"{found} {shown}".strip())
