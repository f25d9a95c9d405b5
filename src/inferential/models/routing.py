"""Which version of a model answers a robot. No I/O and no clock.

A robot's place among all is a hash of its id and of the version on trial, and a share takes the robots with the lowest
ones: exactly that share of the robots that no trial names, and the same ones when it grows (rendezvous hashing; Thaler
and Ravishankar, 1998). Of several versions the first takes its robots first, and the next one of those left. A
robot stays with its version until an episode or a chunk of its ends.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass

PATIENCE_S = 10.0
"""After so long a robot changes its version, if no episode and no chunk of its has ended meanwhile."""

STATE_PATIENCE_S = 300.0
"""The same of a model that keeps state, which a robot loses when it changes within an episode."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Which robots try a version: by id, by kind, and of those that no trial names a share, 0 to 1."""

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
    stays_until: float = -math.inf
    """Within an episode, with the active version, as another one had a call that took too long."""


class Router:
    """The robots of one model and their versions.

    Args:
        active: the version of the robots that try none.
        trials: the versions on trial, in order: the first that wants a robot has it.
    """

    def __init__(self, active: str, trials: Mapping[str, Trial] | None = None) -> None:
        self._robots: dict[str, _Robot] = {}
        self._ranked: dict[str, list[tuple[int, str]]] = {}  # robots in the order in which a version takes them
        self._named: dict[str, str] = {}  # versions of the robots that a trial names
        self._tried: dict[str, str] | None = None  # by robot; None: to be worked out anew
        self._available: frozenset[str] = frozenset()
        self.configure(active, trials or {})

    def configure(self, active: str, trials: Mapping[str, Trial]) -> None:
        """Takes another plan; robots change as `version_of` says."""
        self.active = active
        self.trials: dict[str, Trial] = dict(trials)
        self._tried = None
        self._named = {}
        self._ranked = {
            version: sorted((_hash(version, client_id), client_id) for client_id in self._robots)
            for version in self.trials
        }
        for client_id, robot in self._robots.items():
            self._name(client_id, robot)

    def offer(self, versions: Collection[str]) -> None:
        """Sets which versions besides the active one can answer; robots of the others go to the active one at once."""
        self._available = frozenset(versions)

    def version_of(
        self,
        client_id: str,
        client_type: str,
        *,
        episode: int,
        between_chunks: bool,
        now: float,
        patience_s: float = PATIENCE_S,
    ) -> str:
        """Returns the version that answers a robot's next request.

        Args:
            client_id, client_type: the robot.
            episode: the number of its episode.
            between_chunks: whether it has no action of an earlier answer left to play, nor a state to lose.
            now: seconds.
            patience_s: after so long it changes anyway.
        """
        robot = self._robots.get(client_id)
        if robot is None:
            # What it plays now, if anything, is the active version's: before there was a trial that answered all.
            robot = self._robots[client_id] = _Robot(client_type, self.active, episode, self.active)
            for version, ranked in self._ranked.items():
                insort(ranked, (_hash(version, client_id), client_id))
            self._name(client_id, robot)
            self._tried = None
        elif robot.client_type != client_type:
            robot.client_type = client_type
            self._name(client_id, robot)
            self._tried = None
        began = robot.episode != episode
        robot.episode = episode
        if began:
            robot.stays_until = -math.inf
        wanted = self._wanted(client_id)
        if wanted == robot.version:
            robot.wanted = wanted
            return wanted
        if wanted != robot.wanted:
            robot.wanted, robot.wanted_since = wanted, now
        must = robot.version != self.active and robot.version not in self._available
        if robot.version == self.active and now < robot.stays_until:
            return robot.version
        if must or began or between_chunks or now - robot.wanted_since >= patience_s:
            robot.version = wanted
        return robot.version

    def leave(self, version: str, now: float) -> None:
        """Has the robots of a version go to the active one, and stay within their episodes, for PATIENCE_S at most."""
        for robot in self._robots.values():
            if robot.version == version:
                robot.version, robot.stays_until = self.active, now + PATIENCE_S

    def seen(self, client_id: str) -> tuple[str, int] | None:
        """Returns the version that answers a robot and the number of its episode; None before its first request."""
        robot = self._robots.get(client_id)
        return None if robot is None else (robot.version, robot.episode)

    def _wanted(self, client_id: str) -> str:
        if self._tried is None:
            self._tried = self._work_out()
        version = self._tried.get(client_id, self.active)
        return version if version in self._available else self.active

    def _work_out(self) -> dict[str, str]:
        """Returns the versions of the robots that try one, whether or not it can answer now."""
        tried = dict(self._named)
        others = len(self._robots) - len(tried)
        for version, trial in self.trials.items():
            left = math.ceil(trial.share * others - 0.5)  # of one and a half it is one: a trial begins with few
            for _, client_id in self._ranked[version]:
                if left <= 0:
                    break
                if client_id not in tried:
                    tried[client_id] = version
                    left -= 1
        return tried

    def _name(self, client_id: str, robot: _Robot) -> None:
        """Notes whether a trial names a robot."""
        self._named.pop(client_id, None)
        for version, trial in self.trials.items():
            if client_id in trial.clients or robot.client_type in trial.client_types:
                self._named[client_id] = version
                return

    def forget(self, client_id: str) -> None:
        """Forgets a robot that is gone."""
        if self._robots.pop(client_id, None) is None:
            return
        self._named.pop(client_id, None)
        self._tried = None
        for version, ranked in self._ranked.items():
            del ranked[bisect_left(ranked, (_hash(version, client_id), client_id))]

    def counts(self) -> dict[str, int]:
        """Returns how many robots each version answers."""
        found: dict[str, int] = {}
        for robot in self._robots.values():
            found[robot.version] = found.get(robot.version, 0) + 1
        return found

    def version_now(self, client_id: str) -> str | None:
        """Returns the version that has answered a robot last; None of one that has not asked."""
        robot = self._robots.get(client_id)
        return None if robot is None else robot.version

    def has(self, version: str) -> bool:
        """Returns whether a version answers a robot."""
        return any(robot.version == version for robot in self._robots.values())


def _hash(version: str, client_id: str) -> int:
    digest = hashlib.blake2b(f"{version}\0{client_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
