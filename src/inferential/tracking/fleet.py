"""The fleet as the server sees it: who is there, in what rhythm, who is late and who is gone.

No clock and no timer: `now` comes in, and when to look next goes out. It answers and refuses nobody.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferential.tracking.action_horizon import RunwayTracker
from inferential.tracking.cadence import CadenceTracker, Rhythm
from inferential.tracking.outcome_counts import Tallies
from inferential.tracking.response import ResponseTracker
from inferential.tracking.robots import ClientRegistry, ClientState

if TYPE_CHECKING:
    from inferential.config.schema import ResponseTrackingConfig

SWEEP_S = 0.25
"""How often silence is looked for while there are clients; a disconnect time-out shortens it."""
REMEMBERED_DEPARTED = 64
_STEADY_AFTER = 3  # intervals: a confidence of 0.3, below which no rhythm is known well enough to call anybody late


@dataclass(slots=True)
class Sighting:
    """What an observation told of its client.

    Attributes:
        is_new: it was not known, or had been gone.
        returned: it had been late for this model, as `FleetChanges.overdue` told, and is no more.
        interval_s: seconds since its last observation for this model; None for the first.
        time_until_next_s: seconds until its next observation is due; 0 while its rhythm is unknown.
        learned_cadence_s: its learned period; None while it is unknown.
        cadence_deviation_s: how much longer (positive) or shorter this interval was than the period learned
            before it; None while that was unknown.
        steady_cadence_s: its learned period, where it was seen often enough to go by it; else None.
        runs_out_at: when the actions that it has run out, in seconds of `time.monotonic()`; None: not known.
    """

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
    """What silence brought about."""

    overdue: list[tuple[str, str]] = field(default_factory=list)
    """Clients and models that are late by their rhythm; told once for each silence."""
    gone: list[str] = field(default_factory=list)
    """Clients that were silent for the disconnect time-out, and are forgotten."""


class Fleet:
    """All clients and what is known of them."""

    def __init__(self, config: ResponseTrackingConfig) -> None:
        self.registry = ClientRegistry()
        self.cadence = CadenceTracker(config.cadence_alpha, config.overdue_multiplier)
        self.responses = ResponseTracker(config.disconnect_timeout_s)
        self.runway = RunwayTracker()
        self.tallies = Tallies()
        self.departed: OrderedDict[str, ClientState] = OrderedDict()
        """Those who went lately and have not come back, longest gone first."""
        self._timeout_s = config.disconnect_timeout_s
        self._late: dict[str, set[str]] = {}
        # Until when a client may be silent without being late for anything: most of a sweep is one comparison.
        self._quiet_until: dict[str, float] = {}
        self._next_sweep_at: float | None = None

    def configure(self, config: ResponseTrackingConfig) -> None:
        """Other settings hold from now on; what was learned stays."""
        self.cadence.alpha = config.cadence_alpha
        self.cadence.overdue_multiplier = config.overdue_multiplier
        self.responses.disconnect_timeout_s = self._timeout_s = config.disconnect_timeout_s
        for client_id, state in self.registry.all_clients.items():
            self._quiet_until[client_id] = self._next_look(client_id, state.last_seen)

    @property
    def active_count(self) -> int:
        """How many clients there are."""
        return self.registry.active_count

    def client(self, client_id: str) -> ClientState | None:
        """A client, None if it is not there."""
        return self.registry.get(client_id)

    def owner(self, client_id: str) -> bytes | None:
        """The identity of the connection that a client speaks from; None if it is not there."""
        state = self.registry.get(client_id)
        return None if state is None else state.identity

    def seen(
        self,
        client_id: str,
        model_id: str,
        client_type: str,
        identity: bytes,
        now: float,
        steps_remaining: int | None = None,
        control_period_s: float | None = None,
    ) -> Sighting:
        """Notes an observation."""
        is_new = self.registry.on_observation(client_id, model_id, client_type, identity, now)
        if is_new:
            self.departed.pop(client_id, None)
        rhythm, interval, before = self.cadence.note(client_id, model_id, now)
        late = self._late.get(client_id)
        returned = late is not None and model_id in late
        if late is not None:
            late.discard(model_id)
        if self._next_sweep_at is None:
            self._next_sweep_at = now + self._sweep_s()
        self._quiet_until[client_id] = self._next_look(client_id, now)
        learned = rhythm.period if rhythm.intervals else None
        return Sighting(
            is_new,
            returned,
            interval,
            0.0 if learned is None else learned,
            learned,
            None if before is None or interval is None else interval - before,
            learned if rhythm.intervals >= _STEADY_AFTER else None,
            self.runway.on_request(client_id, model_id, steps_remaining, control_period_s, now),
        )

    def periods(self) -> Iterator[tuple[str, str, float]]:
        """Clients, models and the learned periods in seconds, of those that are known well enough to go by."""
        for client_id in self.registry.all_clients:
            for model_id, rhythm in self.cadence.rhythms(client_id).items():
                if rhythm.intervals >= _STEADY_AFTER:
                    yield client_id, model_id, rhythm.period

    def next_sweep_at(self) -> float | None:
        """When to call `sweep` next; None while there is nobody, and no answer that came after its client was gone."""
        return self.responses.expires_at() if self._next_sweep_at is None else self._next_sweep_at

    def sweep(self, now: float) -> FleetChanges:
        """Finds who fell silent: the late first, and of those who are gone that they were late before."""
        changes = FleetChanges()
        suspects = [client_id for client_id, until in self._quiet_until.items() if until <= now]
        for client_id in suspects:
            state = self.registry.get(client_id)
            assert state is not None
            gone = now - state.last_seen >= self._timeout_s
            self._note_late(client_id, now, changes, certain=gone)
            if gone:
                changes.gone.append(client_id)
            else:
                self._quiet_until[client_id] = self._next_look(client_id, state.last_seen)
        for client_id in changes.gone:
            self._depart(client_id)
            self.registry.forget(client_id)
            self.cadence.forget(client_id)
            self.runway.forget(client_id)
            self.tallies.forget(client_id)
            self.responses.forget(client_id)
            self._late.pop(client_id, None)
            del self._quiet_until[client_id]
        self.responses.expire(now)
        self._next_sweep_at = now + self._sweep_s() if self.active_count else None
        return changes

    def _depart(self, client_id: str) -> None:
        state = self.registry.get(client_id)
        assert state is not None
        self.departed[client_id] = state
        if len(self.departed) > REMEMBERED_DEPARTED:
            self.departed.popitem(last=False)

    def is_late(self, client_id: str) -> bool:
        """Whether a client is late for any model, as was told."""
        return bool(self._late.get(client_id))

    def _note_late(self, client_id: str, now: float, changes: FleetChanges, *, certain: bool) -> None:
        rhythms = self.cadence.rhythms(client_id)
        told = self._late.setdefault(client_id, set())
        told.intersection_update(rhythms)  # no more than is known of the client
        for model_id, rhythm in rhythms.items():
            if model_id not in told and (certain or self._late_from(rhythm) <= now):
                told.add(model_id)
                changes.overdue.append((client_id, model_id))

    def _late_from(self, rhythm: Rhythm) -> float:
        """From when on a client is late for a model, if its rhythm is known well enough to say so."""
        if rhythm.intervals < _STEADY_AFTER:
            return math.inf
        return rhythm.last + rhythm.period * self.cadence.overdue_multiplier

    def _next_look(self, client_id: str, last_seen: float) -> float:
        """The first instant at which a silent client is late for something it was not late for yet, or gone."""
        told = self._late.get(client_id, ())
        until = last_seen + self._timeout_s
        for model_id, rhythm in self.cadence.rhythms(client_id).items():
            if model_id not in told and (late_from := self._late_from(rhythm)) < until:
                until = late_from
        return until

    def _sweep_s(self) -> float:
        return min(SWEEP_S, self._timeout_s / 4)
