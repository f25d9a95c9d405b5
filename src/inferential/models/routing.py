"""Which version of a model answers a robot. No I/O and no clock.

A robot's place among all is a hash of its id and of the version on trial, and a share takes the robots with the lowest
ones: exactly that share of the robots that are there, and the same ones when it grows (rendezvous hashing; Thaler and
Ravishankar, 1998). A robot stays with its version until an episode or a chunk of its ends.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

PATIENCE_S = 10.0
"""After so long a robot changes its version, if no episode and no chunk of its has ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Which robots try a version: by id, by kind, and of the others a share, 0 to 1."""

    share: float = 0.0
    clients: frozenset[str] = frozenset()
    client_types: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Robot:
    client_type: str
    version: str
    episode: int
    wanted: str = ""
    wanted_since: float = math.inf


@dataclass(slots=True)
class _Ranking:
    """The robots in the order in which a version takes them."""

    ranked: list[tuple[int, str]] = field(default_factory=list)


class Router:
    """The robots of one model and their versions.

    Args:
        active: the version of the robots that try none.
        trials: the versions on trial, in order: the first that wants a robot has it.
    """

    def __init__(self, active: str, trials: Mapping[str, Trial] | None = None) -> None:
        self._robots: dict[str, _Robot] = {}
        self._rankings: dict[str, _Ranking] = {}
        self._available: frozenset[str] = frozenset()
        self.configure(active, trials or {})

    def configure(self, active: str, trials: Mapping[str, Trial]) -> None:
        """Takes another plan; robots change as `version_of` says."""
        self.active = active
        self.trials = dict(trials)
        self._rankings = {}
        for version in self.trials:
            ranking = self._rankings[version] = _Ranking()
            ranking.ranked = sorted((_hash(version, client_id), client_id) for client_id in self._robots)

    def offer(self, versions: Collection[str]) -> None:
        """Sets which versions on trial can answer; robots of the others go back to the active one at once."""
        self._available = frozenset(versions)

    def version_of(self, client_id: str, client_type: str, *, episode: int, between_chunks: bool, now: float) -> str:
        """Returns the version that answers a robot's next request.

        Args:
            client_id, client_type: the robot.
            episode: the number of its episode.
            between_chunks: whether it has no action of an earlier answer left to play.
            now: seconds.
        """
        robot = self._robots.get(client_id)
        if robot is None:
            robot = self._robots[client_id] = _Robot(client_type, "", episode)
            for version, ranking in self._rankings.items():
                insort(ranking.ranked, (_hash(version, client_id), client_id))
        began = robot.episode != episode
        robot.episode, robot.client_type = episode, client_type
        wanted = self._wanted(client_id, client_type)
        if wanted == robot.version:
            robot.wanted = wanted
            return wanted
        if wanted != robot.wanted:
            robot.wanted, robot.wanted_since = wanted, now
        must = robot.version != self.active and robot.version not in self._available
        if must or began or between_chunks or now - robot.wanted_since >= PATIENCE_S:
            robot.version = wanted
        return robot.version

    def seen(self, client_id: str) -> tuple[str, int] | None:
        """Returns the version that answers a robot and the number of its episode; None before its first request."""
        robot = self._robots.get(client_id)
        return None if robot is None else (robot.version, robot.episode)

    def _wanted(self, client_id: str, client_type: str) -> str:
        for version, trial in self.trials.items():
            if version not in self._available:
                continue
            if client_id in trial.clients or client_type in trial.client_types:
                return version
        for version, trial in self.trials.items():
            if version in self._available and self._is_in_share(version, trial, client_id):
                return version
        return self.active

    def _is_in_share(self, version: str, trial: Trial, client_id: str) -> bool:
        ranked = self._rankings[version].ranked
        count = math.ceil(trial.share * len(ranked) - 0.5)  # of one and a half it is one: a trial begins with few
        return bisect_left(ranked, (_hash(version, client_id), client_id)) < count

    def forget(self, client_id: str) -> None:
        """Forgets a robot that is gone."""
        if self._robots.pop(client_id, None) is None:
            return
        for version, ranking in self._rankings.items():
            key = (_hash(version, client_id), client_id)
            at = bisect_left(ranking.ranked, key)
            if at < len(ranking.ranked) and ranking.ranked[at] == key:
                del ranking.ranked[at]

    def counts(self) -> dict[str, int]:
        """Returns how many robots each version answers."""
        found: dict[str, int] = {}
        for robot in self._robots.values():
            found[robot.version] = found.get(robot.version, 0) + 1
        return found


def _hash(version: str, client_id: str) -> int:
    digest = hashlib.blake2b(f"{version}\0{client_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
