"""The fleet: which clients are connected, at what cadence they ask, which are overdue and which are gone.

No clock and no timer: `now` is passed in, and `next_sweep_at` returns when to look next.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from inferential.tracking.action_horizon import ActionHorizonTracker
from inferential.tracking.cadence import STEADY_AFTER, CadenceTracker, Rhythm
from inferential.tracking.limits import MAX_MODELS
from inferential.tracking.newcomers import Newcomers
from inferential.tracking.outcome_counts import OutcomeTable
from inferential.tracking.robots import COMMANDS, ClientRegistry, ClientState
from inferential.tracking.track import Track

if TYPE_CHECKING:
    from inferential.config.schema import ResponseTrackingConfig

SWEEP_S = 0.25
"""Interval of sweeps while clients are connected, in seconds; a short disconnect time-out shortens it."""
STEP = 128
"""Silent clients that are looked at in a step: a few tenths of a millisecond."""
MAX_DEPARTED = 64


_NONE: set[str] = set()


class ClientUpdate(NamedTuple):
    """What is known of a client after an observation.

    Attributes:
        track: its entries in the tables.
        is_new: it was not connected before.
        returned: it was overdue for this model, as `FleetChanges.overdue` reported, and no longer is.
        interval_s: seconds since its last observation for this model; None for the first.
        time_until_next_s: seconds until its next observation is due; 0 while its cadence is unknown.
        learned_cadence_s: its learned period in seconds; None while unknown.
        cadence_deviation_s: this interval minus the period learned before it, in seconds; None while that was unknown.
        steady_cadence_s: its learned period, if learned from enough intervals to rely on; else None.
        runs_out_at: when its actions run out, in seconds of `time.monotonic()`; None while unknown.
    """

    track: Track
    is_new: bool
    returned: bool
    interval_s: float | None
    time_until_next_s: float
    learned_cadence_s: float | None
    cadence_deviation_s: float | None
    steady_cadence_s: float | None = None
    runs_out_at: float | None = None


@dataclass(slots=True)
class FleetChanges:
    """What a sweep found."""

    overdue: list[tuple[str, str]] = field(default_factory=list)
    """Clients and models that are overdue by their cadence; reported once for each silence."""
    gone: list[str] = field(default_factory=list)
    """Clients that were silent for the disconnect time-out; they have been removed."""
    identities: dict[str, bytes] = field(default_factory=dict)
    """Of those that are gone, which connections they had, by client id."""


class Fleet:
    """All connected clients and what is tracked of them."""

    def __init__(self, config: ResponseTrackingConfig) -> None:
        self.registry: ClientRegistry = ClientRegistry()
        self.cadence: CadenceTracker = CadenceTracker(config.cadence_alpha, config.overdue_multiplier)
        self.action_horizon: ActionHorizonTracker = ActionHorizonTracker()
        self.outcomes: OutcomeTable = OutcomeTable()
        self.newcomers: Newcomers = Newcomers()
        self.departed: OrderedDict[str, ClientState] = OrderedDict()
        """Clients, commands apart, that disconnected lately and have not returned, longest gone first."""
        self._timeout_s = config.disconnect_timeout_s
        self._tracks: dict[tuple[str, str], Track] = {}
        self._overdue: dict[str, set[str]] = {}
        # Until when a client is neither overdue nor gone, whatever it sends: it may be so for longer, which a sweep
        # finds out. So most observations and most sweeps are a comparison each.
        self._quiet_until: dict[str, float] = {}
        self._next_sweep_at: float | None = None

    def configure(self, config: ResponseTrackingConfig) -> None:
        """Applies changed settings; what was learned stays."""
        self.cadence.alpha = config.cadence_alpha
        self.cadence.overdue_multiplier = config.overdue_multiplier
        self._timeout_s = config.disconnect_timeout_s
        for client_id, state in self.registry.all_clients.items():
            self._quiet_until[client_id] = self._next_change(client_id, state.last_seen)

    @property
    def active_count(self) -> int:
        """Number of connected clients."""
        return self.registry.active_count

    @property
    def overdue_count(self) -> int:
        """Number of connected clients that have been reported as overdue for any model."""
        return sum(map(bool, self._overdue.values()))

    def sizes(self) -> dict[str, int]:
        """Returns the number of entries in each table."""
        return {
            "clients": self.registry.active_count,
            "clients_departed": len(self.departed),
            "clients_overdue": len(self._overdue),
            "models_overdue": sum(map(len, self._overdue.values())),
            "client_sweeps": len(self._quiet_until),
            "cadences": len(self.cadence),
            "action_horizons": len(self.action_horizon),
            "outcome_counts": len(self.outcomes),
            "tracks": len(self._tracks),
        }

    def client(self, client_id: str) -> ClientState | None:
        """Returns a client; None if it is not connected."""
        return self.registry.get(client_id)

    def track(self, client_id: str, model_id: str) -> Track | None:
        """Returns what is tracked of a connected client and a model; None before its first observation for that."""
        return self._tracks.get((client_id, model_id))

    def owner(self, client_id: str) -> bytes | None:
        """Returns the identity of a client's connection; None if it is not connected."""
        state = self.registry.get(client_id)
        return None if state is None else state.identity

    def on_observation(
        self,
        client_id: str,
        model_id: str,
        client_type: str,
        identity: bytes,
        now: float,
        steps_remaining: int | None = None,
        control_period_s: float | None = None,
        *,
        renews: bool = False,
    ) -> ClientUpdate:
        """Records an observation; one that renews a waiting request says nothing of how often its client asks."""
        track = self._tracks.get((client_id, model_id))
        if track is None:
            track, is_new, interval, before = self._begin(client_id, model_id, client_type, identity, now)
            rhythm = track.rhythm
        else:  # what the tables do, without a look at each of them
            is_new, client, rhythm = False, track.client, track.rhythm
            client.last_seen = now
            client.total_requests += 1
            if client_type:
                client.client_type = client_type
            if identity:
                client.identity = identity
            before = rhythm.period if rhythm.intervals else None
            if before is None and not renews:
                self.newcomers.asked_again(model_id)
            if renews:
                interval, rhythm.renewed_at = None, now
            else:
                interval = now - rhythm.last
                rhythm.learn_pause(now, self.cadence.alpha)
                rhythm.last = now
                rhythm.learn(interval, self.cadence.alpha)
        returned = False
        if self._overdue and model_id in (overdue := self._overdue.get(client_id, _NONE)):
            returned = True
            overdue.discard(model_id)
            if interval is not None:
                rhythm.paused(interval)
        if self._next_sweep_at is None:
            self._next_sweep_at = now + self._sweep_s()
        until = self._quiet_until.get(client_id, math.inf)
        soonest = now + self.cadence.overdue_multiplier * rhythm.period  # NaN while the period is unknown
        if not until <= soonest or until > now + self._timeout_s:
            self._quiet_until[client_id] = self._next_change(client_id, now)
        runs_out_at = track.horizon.observed(steps_remaining, control_period_s, now)
        if not rhythm.intervals:
            return ClientUpdate(track, is_new, returned, interval, 0.0, None, None, None, runs_out_at)
        learned = rhythm.period
        deviation = None if before is None or interval is None else interval - before
        steady = None if rhythm.intervals < STEADY_AFTER or rhythm.is_irregular else learned
        update = track, is_new, returned, interval, learned, learned, deviation, steady, runs_out_at
        return tuple.__new__(ClientUpdate, update)  # a third of the time of calling it

    def _begin(
        self, client_id: str, model_id: str, client_type: str, identity: bytes, now: float
    ) -> tuple[Track, bool, float | None, float | None]:
        """Records an observation in each table; returns its track, whether its client is new, and what `note` does."""
        is_new = self.registry.on_observation(client_id, model_id, client_type, identity, now)
        if is_new:
            self.departed.pop(client_id, None)
        if len(self.cadence.rhythms(client_id)) >= MAX_MODELS:  # an entry has to go, of which there is a track
            self._drop_tracks(client_id)
        rhythm, interval, before = self.cadence.note(client_id, model_id, now)
        client = self.registry.get(client_id)
        assert client is not None
        if interval is None:
            self.newcomers.came(model_id)
        horizon, counts = self.action_horizon.of(client_id, model_id), self.outcomes.of(client_id, model_id)
        track = self._tracks[client_id, model_id] = Track(client, rhythm, horizon, counts)
        return track, is_new, interval, before

    def _drop_tracks(self, client_id: str) -> None:
        for model_id in self.cadence.rhythms(client_id):
            track = self._tracks.pop((client_id, model_id), None)
            if track is not None:
                track.stands = False

    def on_overtaken(self, client_id: str, model_id: str, count: int, now: float) -> None:
        """Records observations of a connected client that are received with a newer one, which was recorded before or
        is after; they count as spread over the time since its last."""
        track = self._tracks.get((client_id, model_id))
        if track is None:
            if self.registry.get(client_id) is not None:
                self.outcomes.of(client_id, model_id).superseded += count
            return
        track.counts.superseded += count
        rhythm = track.rhythm
        interval = (now - rhythm.last) / (count + 1)
        rhythm.learn_all(interval, self.cadence.alpha, count)
        rhythm.last = now - interval

    def periods(self, now: float) -> Iterator[tuple[str, str, float]]:
        """Yields client, model and the seconds between its requests, where that is known: as learned, or their mean
        where they are irregular."""
        for client_id in list(self.registry.all_clients):  # which may change between one and the next
            for model_id, rhythm in list(self.cadence.rhythms(client_id).items()):
                if not math.isnan(period_s := rhythm.asked_every_s(now)):
                    yield client_id, model_id, period_s

    def pause_s(self, client_id: str, model_id: str) -> float:
        """Returns how long after the answer to its newest request a client asks again, in s; infinite: not known."""
        rhythm = self.cadence.rhythms(client_id).get(model_id)
        return math.inf if rhythm is None else rhythm.pause

    def expects(self, now: float, within_s: float) -> bool:
        """Returns whether an observation of any client may come within so many seconds, as far as its cadence is known.

        One that is late is due now, until its client is overdue; a client whose intervals are irregular may ask at any
        time until then. The first that is found ends the search.
        """
        until = now + within_s
        for client_id in self.registry.all_clients:
            for rhythm in self.cadence.rhythms(client_id).values():
                if rhythm.intervals >= STEADY_AFTER and rhythm.may_come(now, until, self.cadence.overdue_multiplier):
                    return True
        return False

    def next_sweep_at(self) -> float | None:
        """Returns when to call `sweep` next; None while no client is connected."""
        return self._next_sweep_at

    def sweep(
        self,
        now: float,
        waits: Callable[[str], bool] = lambda client_id: False,
        is_behind: Callable[[str], bool] = lambda client_id: False,
    ) -> FleetChanges:
        """Finds clients that have fallen silent; one that is gone is reported as overdue too, if it was not before.

        Args:
            now: seconds of `time.monotonic()`.
            waits: returns whether a client waits for an answer: however long that takes, it is not gone.
            is_behind: returns whether the server has not read all that a client has sent, which is not silent then.
        """
        found = FleetChanges()
        for changes in self.sweep_steps(now, waits, is_behind):
            found.overdue += changes.overdue
            found.gone += changes.gone
            found.identities |= changes.identities
        return found

    def sweep_steps(
        self, now: float, waits: Callable[[str], bool], is_behind: Callable[[str], bool]
    ) -> Iterator[FleetChanges]:
        """Does what `sweep` does, a part with each step; what is observed between two steps counts in the next."""
        self._next_sweep_at = now + self._sweep_s() if self.active_count else None
        silent = [client_id for client_id, until in self._quiet_until.items() if until <= now]
        for at in range(0, len(silent), STEP):
            changes = self._find_silent(silent[at : at + STEP], now, waits, is_behind)
            if not self.active_count:
                self._next_sweep_at = None
            yield changes

    def _find_silent(
        self, client_ids: Iterable[str], now: float, waits: Callable[[str], bool], is_behind: Callable[[str], bool]
    ) -> FleetChanges:
        changes = FleetChanges()
        for client_id in client_ids:
            state = self.registry.get(client_id)
            if state is None:
                continue  # it went since the sweep began
            if (until := self._next_change(client_id, state.last_seen)) > now:
                self._quiet_until[client_id] = until
                continue
            if is_behind(client_id):
                continue  # it is looked at with each sweep
            gone = now - state.last_seen >= self._timeout_s and not waits(client_id)
            self._find_overdue(client_id, now, changes, certain=gone)
            if gone:
                changes.gone.append(client_id)
                changes.identities[client_id] = state.identity
            else:
                # One that waits is looked at with each sweep.
                self._quiet_until[client_id] = max(self._next_change(client_id, state.last_seen), now)
        for client_id in changes.gone:
            self._depart(client_id)
            self._drop_tracks(client_id)
            self.registry.forget(client_id)
            self.cadence.forget(client_id)
            self.action_horizon.forget(client_id)
            self.outcomes.forget(client_id)
            self._overdue.pop(client_id, None)
            del self._quiet_until[client_id]
        return changes

    def _depart(self, client_id: str) -> None:
        state = self.registry.get(client_id)
        assert state is not None
        if state.client_type.startswith(COMMANDS):
            return
        self.departed[client_id] = state
        if len(self.departed) > MAX_DEPARTED:
            self.departed.popitem(last=False)

    def is_overdue(self, client_id: str) -> bool:
        """Returns whether a client has been reported as overdue for any model."""
        return bool(self._overdue.get(client_id))

    def _find_overdue(self, client_id: str, now: float, changes: FleetChanges, *, certain: bool) -> None:
        rhythms = self.cadence.rhythms(client_id)
        reported = self._overdue.setdefault(client_id, set())
        reported.intersection_update(rhythms)  # only models that are still tracked
        for model_id, rhythm in rhythms.items():
            if model_id not in reported and (certain or self._overdue_from(rhythm) <= now):
                reported.add(model_id)
                changes.overdue.append((client_id, model_id))

    def _overdue_from(self, rhythm: Rhythm) -> float:
        """Returns from when on a client is overdue for a model; infinite while its cadence is not known well enough."""
        if rhythm.intervals < STEADY_AFTER:
            return math.inf
        return rhythm.overdue_from(self.cadence.overdue_multiplier)

    def _next_change(self, client_id: str, last_seen: float) -> float:
        """Returns when a client that stays silent becomes overdue for another model, or gone."""
        reported = self._overdue.get(client_id, ())
        until = last_seen + self._timeout_s
        for model_id, rhythm in self.cadence.rhythms(client_id).items():
            if model_id not in reported and (overdue_from := self._overdue_from(rhythm)) < until:
                until = overdue_from
        return until

    def _sweep_s(self) -> float:
        return min(SWEEP_S, self._timeout_s / 4)
