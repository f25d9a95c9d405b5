"""The running calls: on which replica and device, since when, and when each is expected to end.

It decides nothing: the engine asks it which replicas are free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import FREE, ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile, Profiles

_REMEMBERED_MODELS = 1024


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one model takes at once.

    Attributes:
        max_inflight: calls that may run at once on each replica; 0: none can run now.
        max_batch_size: the most requests in one call.
        replicas: their names; they need not be alike, and the latency of each is learned.
        device: name of the device that the model runs on; models with the same device run one call at a time among
            them. None: the model shares no device.
    """

    max_inflight: int
    max_batch_size: int
    replicas: tuple[str, ...] = ("",)
    device: str | None = None
    single: bool = field(init=False)
    """Whether it takes one call at a time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "single", self.max_inflight == 1 and len(self.replicas) == 1)


@dataclass(slots=True, eq=False)  # not frozen, which would double the time that it takes to make one
class Batch:
    """Requests of one model that run in one call.

    Attributes:
        model_id: the model, or the pool of one of its versions (`InferenceRequest.pool`).
        requests: one for each row.
        replica: name of the replica that runs it.
        started_at: when it was dispatched, in seconds of `time.monotonic()`, or when the call ended that it was sent
            ahead of.
        handed_over: whether another pool was given its requests, so that what it ends in is no answer to them.
    """

    model_id: str
    requests: list[InferenceRequest]
    replica: str = ""
    started_at: float = 0.0
    handed_over: bool = False


_Calls = dict[str, dict[Batch, None]]
"""Those of one model, by replica."""


class Running:
    """All running calls, and the `Availability` that follows from them.

    Args:
        capacity: returns what a model takes at once, by model id.
        profiles: latencies, by which the end of a call is expected, and which measured calls are added to.
    """

    def __init__(self, capacity: Callable[[str], Capacity], profiles: Profiles) -> None:
        self.profiles = profiles
        self.capacity = capacity
        self._models: dict[str, _Calls] = {}
        self._devices: dict[str, Batch] = {}
        self._ending: dict[Batch, float] = {}  # whose slots are free, and since when
        self._members: dict[str, dict[str, None]] = {}
        self._slots: dict[str, tuple[Capacity, Sequence[ReplicaSlot]]] = {}  # until a call begins or ends
        self._asked: dict[str, Sequence[ReplicaSlot]] = {}  # those of them whose capacity was asked at this decision
        self._idle: dict[
            str, tuple[Capacity, Sequence[ReplicaSlot]]
        ] = {}  # of models that share nothing, while none runs
        self._known_version = profiles.version

    def begin_decision(self) -> None:
        """Begins another decision: capacities are asked for again."""
        if self._asked:
            self._asked.clear()
        if self.profiles.version != self._known_version:
            self._known_version = self.profiles.version
            self._slots.clear()
            self._idle.clear()

    def requests(self) -> list[InferenceRequest]:
        """Returns the requests of all running calls."""
        return [
            request
            for calls in self._models.values()
            for batches in calls.values()
            for batch in batches
            if not batch.handed_over
            for request in batch.requests
        ] + [request for batch in self._ending if not batch.handed_over for request in batch.requests]

    def calls(self, model_id: str) -> list[Batch]:
        """Returns the running calls of a model, those that are about to end too."""
        running = [batch for batches in self._models.get(model_id, {}).values() for batch in batches]
        return running + [batch for batch in self._ending if batch.model_id == model_id]

    @property
    def any(self) -> bool:
        """Whether a call runs."""
        return bool(self._models or self._ending)

    def count(self, model_id: str) -> int:
        """Returns how many calls of a model run, with those that are about to end."""
        return len(self.calls(model_id))

    def by_replica(self, model_id: str) -> dict[str, int]:
        """Returns how many calls of a model run on each replica that runs any."""
        return {replica: len(batches) for replica, batches in self._models.get(model_id, {}).items()}

    def since(self) -> dict[str, list[float]]:
        """Returns when the running calls of each model that has any began, with those that are about to end."""
        model_ids = {*self._models, *(batch.model_id for batch in self._ending)}
        return {model_id: [batch.started_at for batch in self.calls(model_id)] for model_id in model_ids}

    def begin(self, batch: Batch, device: str | None) -> None:
        """Adds a call that was dispatched; `device` is the one that it occupies, if its model shares one."""
        if self._slots:
            self._room_changed()
        self._models.setdefault(batch.model_id, {}).setdefault(batch.replica, {})[batch] = None
        if device is not None:
            self._devices[device] = batch

    def ending(self, batch: Batch, now: float) -> None:
        """Frees the slot of a call that is about to end."""
        self._free(batch)
        self._ending[batch] = now

    def end(self, batch: Batch, now: float, *, measured: bool) -> None:
        """Removes a call that ended; learns from its duration if `measured`."""
        if self._ending and (since := self._ending.pop(batch, None)) is not None:
            self._room_changed()
            for other in self._models.get(batch.model_id, {}).get(batch.replica, ()):
                if other.started_at >= since:  # it was sent ahead, and begins now
                    other.started_at = now
        else:
            self._free(batch)
        if measured:
            self._profile(batch).note(len(batch.requests), now - batch.started_at)

    def _free(self, batch: Batch) -> None:
        if self._slots:
            self._room_changed()
        calls = self._models[batch.model_id]
        batches = calls[batch.replica]
        del batches[batch]
        if not batches:
            del calls[batch.replica]
            if not calls:
                del self._models[batch.model_id]
        if self._devices:
            self._devices = {device: running for device, running in self._devices.items() if running is not batch}

    def free_slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        """Returns the replicas that can begin a call now, the fastest first."""
        if (calls := self._models.get(model_id)) is not None and self._is_full(calls, self.capacity(model_id)):
            return ()
        slots = self.slots(model_id)
        if len(slots) == 1:
            return slots if slots[0].free_at == FREE else ()
        return sorted((slot for slot in slots if slot.free_at == FREE), key=_typical)

    @staticmethod
    def _is_full(calls: _Calls, capacity: Capacity) -> bool:
        """Returns whether each replica runs as many calls as it may: nothing is to be known of its slots then."""
        if capacity.single:
            return capacity.replicas[0] in calls
        return all(len(calls.get(replica, ())) >= capacity.max_inflight for replica in capacity.replicas)

    def free_alone(self, model_id: str) -> ReplicaSlot | None:
        """Returns the fastest free replica of a model that shares no device; None if none is free or it does share."""
        capacity = self.capacity(model_id)
        if capacity.device is not None:
            return None
        known = self._idle.get(model_id) if model_id not in self._models else None
        slots = self._slots_of(model_id, capacity) if known is None or known[0] is not capacity else known[1]
        if len(slots) == 1:
            slot = slots[0]
            return slot if slot.free_at == FREE else None
        return min((slot for slot in slots if slot.free_at == FREE), key=_typical, default=None)

    # Availability

    def slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        """Returns the replicas of a model, each with when it is expected to be free."""
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
        """Returns the models seen so far that share the model's device."""
        device = self.capacity(model_id).device
        if device is None:
            return (model_id,)
        members = self._members.setdefault(device, {})
        members[model_id] = None
        return tuple(members)

    def _device_free_at(self, model_id: str, device: str | None) -> float:
        if device is None:
            return FREE
        self._members.setdefault(device, {})[model_id] = None
        batch = self._devices.get(device)
        if batch is None:
            return FREE
        return self._ends_at(batch)

    def _ends_at(self, batch: Batch) -> float:
        """Returns when a call is expected to end."""
        return batch.started_at + self._profile(batch).typical(len(batch.requests))

    def _profile(self, batch: Batch) -> LatencyProfile:
        return self.profiles.of(batch.model_id, batch.replica)


def _typical(slot: ReplicaSlot) -> float:
    return slot.profile.typical(1)
