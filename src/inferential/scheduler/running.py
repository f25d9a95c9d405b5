"""The calls that run: on which replica and device, since when and for how long still.

It decides nothing: the engine asks it where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile, Profiles

_REMEMBERED_MODELS = 1024


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one model takes.

    Attributes:
        max_inflight: calls that may run at once on each replica; 0: none can run just now.
        max_batch_size: requests in one call.
        replicas: their names; they need not be alike, and the latency of each is learned.
        device: what the model runs on; models with the same device run one call at a time among them. None: it
            shares with nobody.
    """

    max_inflight: int
    max_batch_size: int
    replicas: tuple[str, ...] = ("",)
    device: str | None = None


@dataclass(slots=True, eq=False)  # not frozen, which would double the time that it takes to make one
class Batch:
    """Requests of one model that run in one call.

    Attributes:
        model_id: whose.
        requests: the rows.
        replica: which replica runs it.
        started_at: seconds of `time.monotonic()` at which it was dispatched.
    """

    model_id: str
    requests: list[InferenceRequest]
    replica: str = ""
    started_at: float = 0.0


_Calls = dict[str, dict[Batch, None]]
"""Those of one model, by replica."""


class Running:
    """All calls that run, and an `Availability` on when there will be room."""

    def __init__(self, capacity: Callable[[str], Capacity], profiles: Profiles) -> None:
        self.profiles = profiles
        self.capacity = capacity
        self._models: dict[str, _Calls] = {}
        self._devices: dict[str, Batch] = {}
        self._members: dict[str, dict[str, None]] = {}
        self._slots: dict[str, tuple[Capacity, Sequence[ReplicaSlot]]] = {}  # until a call begins or ends
        self._asked: dict[str, Sequence[ReplicaSlot]] = {}  # those of them whose capacity was asked at this decision
        self._idle: dict[
            str, tuple[Capacity, Sequence[ReplicaSlot]]
        ] = {}  # of models that share nothing, while none runs
        self._known_version = profiles.version

    def begin_decision(self) -> None:
        """Another decision begins: capacities are asked again."""
        if self._asked:
            self._asked.clear()
        if self.profiles.version != self._known_version:
            self._known_version = self.profiles.version
            self._slots.clear()
            self._idle.clear()

    def requests(self) -> list[InferenceRequest]:
        """The requests in all calls."""
        return [
            request
            for calls in self._models.values()
            for batches in calls.values()
            for batch in batches
            for request in batch.requests
        ]

    def count(self, model_id: str) -> int:
        """How many calls of a model run."""
        return sum(map(len, self._models.get(model_id, {}).values()))

    def by_replica(self, model_id: str) -> dict[str, int]:
        """How many calls of a model run on each replica that runs any."""
        return {replica: len(batches) for replica, batches in self._models.get(model_id, {}).items()}

    def begin(self, batch: Batch, device: str | None) -> None:
        """A call was dispatched."""
        self._room_changed()
        self._models.setdefault(batch.model_id, {}).setdefault(batch.replica, {})[batch] = None
        if device is not None:
            self._devices[device] = batch

    def end(self, batch: Batch, now: float, *, measured: bool) -> None:
        """A call ended; with `measured` its duration is one to learn from."""
        self._room_changed()
        calls = self._models[batch.model_id]
        batches = calls[batch.replica]
        del batches[batch]
        if not batches:
            del calls[batch.replica]
            if not calls:
                del self._models[batch.model_id]
        for device, running in self._devices.items():
            if running is batch:
                del self._devices[device]
                break
        if measured:
            self._profile(batch).note(len(batch.requests), now - batch.started_at)

    def free_slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        """Returns the replicas that can begin a call now, the fastest first."""
        slots = self.slots(model_id)
        if len(slots) == 1:
            return slots if slots[0].free_at == -math.inf else ()
        return sorted((slot for slot in slots if slot.free_at == -math.inf), key=_typical)

    def free_alone(self, model_id: str) -> ReplicaSlot | None:
        """The same, of a model that shares its device with no other; None for one that does."""
        capacity = self.capacity(model_id)
        return _fastest(self._slots_of(model_id, capacity)) if capacity.device is None else None

    # Availability

    def slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        """The replicas of a model, each with when it is expected to have room."""
        asked = self._asked.get(model_id)
        if asked is not None:
            return asked
        return self._slots_of(model_id, self.capacity(model_id))

    def _slots_of(self, model_id: str, capacity: Capacity) -> Sequence[ReplicaSlot]:
        idle = capacity.device is None and model_id not in self._models
        remembered = self._idle if idle else self._slots
        known = remembered.get(model_id)
        if known is None or known[0] is not capacity:
            if len(remembered) >= _REMEMBERED_MODELS:  # where any id may be that of a model
                remembered.clear()
            known = remembered[model_id] = capacity, self._worked_out(model_id, capacity)
        if not idle:
            self._asked[model_id] = known[1]
        return known[1]

    def _room_changed(self) -> None:
        if self._slots:
            self._slots.clear()
            self._asked.clear()

    def _worked_out(self, model_id: str, capacity: Capacity) -> Sequence[ReplicaSlot]:
        device_free_at = self._device_free_at(model_id, capacity.device)
        calls = self._models.get(model_id)
        found = []
        for replica in capacity.replicas:
            free_at = device_free_at
            ends = None if calls is None else calls.get(replica)
            if capacity.max_inflight == 0:
                free_at = math.inf
            elif ends is not None and len(ends) >= capacity.max_inflight:
                # Of more calls than it may run (there were more replicas or slots before) enough must end.
                free_at = max(free_at, sorted(map(self._ends_at, ends))[len(ends) - capacity.max_inflight])
            found.append(
                ReplicaSlot(model_id, replica, capacity.max_batch_size, self.profiles.of(model_id, replica), free_at)
            )
        return found

    def colocated_models(self, model_id: str) -> Sequence[str]:
        """The models seen so far that share the model's device."""
        device = self.capacity(model_id).device
        if device is None:
            return (model_id,)
        members = self._members.setdefault(device, {})
        members[model_id] = None
        return tuple(members)

    def _device_free_at(self, model_id: str, device: str | None) -> float:
        if device is None:
            return -math.inf
        self._members.setdefault(device, {})[model_id] = None
        batch = self._devices.get(device)
        if batch is None:
            return -math.inf
        return self._ends_at(batch)

    def _ends_at(self, batch: Batch) -> float:
        """When a call is expected to end."""
        return batch.started_at + self._profile(batch).typical(len(batch.requests))

    def _profile(self, batch: Batch) -> LatencyProfile:
        return self.profiles.of(batch.model_id, batch.replica)


def _fastest(slots: Sequence[ReplicaSlot]) -> ReplicaSlot | None:
    """Of the replicas with room the fastest; None: none has room now."""
    if len(slots) == 1:
        return slots[0] if slots[0].free_at == -math.inf else None
    free = [slot for slot in slots if slot.free_at == -math.inf]
    return min(free, key=_typical, default=None)


def _typical(slot: ReplicaSlot) -> float:
    return slot.profile.typical(1)
