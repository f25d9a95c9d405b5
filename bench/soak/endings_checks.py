"""What must hold of connections whose requests are known one by one: pure functions of what came, and of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.soak import checks, ledger
from bench.soak.lives import Life


def of_connections(lives: Sequence[Life], last: Sequence[Life], when: str) -> Iterator[checks.Check]:
    """Each request of connections that stood has ended once, and the server ended none of these.

    Args:
        lives: all connections.
        last: those that stood when the server was asked to end.
        when: for the names of the checks.
    """
    stood = [one for one in lives if one.closed != "robot" and not (one.closed and one.excused)]
    ended = [one.name for one in stood if one.closed and one not in last]
    excused = sum(one.closed == "server" and one.excused for one in lives)
    yield checks.Check(f"{when}: no connection is ended", not ended, f"{ended or 'none'}, {excused} after a pause here")
    lost = {one.name: one.open_ids() for one in stood if one.open_ids()}
    count = sum(len(one.sent) for one in stood)
    yield checks.Check(f"{when}: none is left without a word", not lost, f"{count} sent; without: {lost}")
    twice = {number: said for number, said in _ended(lives).items() if len(said) > 1}
    yield checks.Check(f"{when}: none ends twice", not twice, f"{twice or 'none'}")
    strange = [said for one in lives for said in one.strange]
    yield checks.Check(f"{when}: no answer is another's", not strange, f"{strange[:3] or 'none'}")


def _ended(lives: Sequence[Life]) -> dict[int, list[str]]:
    """Returns what robots got of each request, by whichever of their connections."""
    found: dict[int, list[str]] = {}
    for life in lives:
        for number, said in life.ended.items():
            found.setdefault(number, []).extend(said)
    return found


def of_requests(lives: Sequence[Life], entries: Mapping[int, ledger.Entry]) -> Iterator[checks.Check]:
    """What the server did with each request is what came of it, and what it took of a connection came first."""
    wrong = ledger.faults(entries, _ended(lives))
    yield checks.Check("each request ended as its robot got it", not wrong, f"{len(entries)} requests; {wrong[:5]}")
    silent = [
        number
        for life in lives
        if life.closed != "robot" and not life.excused
        for number in life.taken_back - life.ended.keys()
        if number not in entries or "cancelled" not in entries[number].silent
    ]
    yield checks.Check("what was taken back without an end was cancelled", not silent, f"{silent[:5] or 'all'}")
    gaps = []
    for life in lives:
        taken = [one in entries for one, to in life.sent.items() if to != "bad" and one not in life.asked_after]
        if True in taken[taken.index(False) if False in taken else len(taken) :]:
            gaps.append(life.name)
    yield checks.Check("of each connection what came first was taken first", not gaps, f"{gaps or 'all'}")


def of_robots(lives: Sequence[Life], robots: Mapping[str, Any], entries: Mapping[int, ledger.Entry]) -> checks.Check:
    """What the server counts of each robot that it has not forgotten meanwhile is what it did."""
    done: dict[str, Counter[str]] = {}
    for life in lives:
        for number in life.sent.keys() - life.asked_after:
            if (entry := entries.get(number)) is not None:
                done.setdefault(life.name, Counter(requests=0)).update([*entry.sent, *["requests"] * entry.arrivals])
    wrong, looked_at = [], 0
    for name, counts in done.items():
        seen = robots.get(name)
        if seen is None or seen["state"] == "gone" or seen["requests"] != counts["requests"]:
            continue
        looked_at += 1
        for field, status in (("answered", "OK"), ("superseded", "SUPERSEDED")):
            counted = sum(use[field] for use in seen["models"])
            if counted != counts[status]:
                wrong.append(f"{name}: {counted} {field}, it was {counts[status]}")
    return checks.Check("the server counts of each robot what it did", not wrong, f"{looked_at} robots; {wrong}")
