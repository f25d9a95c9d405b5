"""State that `slo_aware` keeps of one model beside its queue, and the batch size that its load needs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from inferential.scheduler.chunk_lane import ChunkLane
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.availability import Availability, ReplicaSlot
from inferential.scheduler.time.demand import Demand

_MAX_UNSERVED = 4096  # clients of a model; beyond it, those remembered longest are forgotten


def smallest_sufficient(
    slots: Sequence[ReplicaSlot], colocated_models: Sequence[tuple[float, Sequence[ReplicaSlot]]], utilisation: float
) -> int:
    """Returns the smallest batch size at which a device carries all requests for its models.

    Args:
        slots: of the model whose batch it is.
        colocated_models: of each model on the device, this one included, what is asked per second and its slots.
        utilisation: the share of the time that may be planned.

    Returns:
        The largest size worth trying where none suffices.
    """
    largest = max(min(slot.max_batch_size, slot.profile.explored()) for slot in slots)

    def load(size: int) -> float:
        return sum(
            per_second / sum(slot.profile.rate(min(size, slot.max_batch_size)) for slot in theirs)
            for per_second, theirs in colocated_models
        )

    if load(1) <= utilisation:
        return 1
    if load(largest) > utilisation:
        return largest
    # Larger batches carry more, so that the sizes which do not suffice come first.
    return bisect_left(range(1, largest), True, key=lambda size: load(size) <= utilisation) + 1


def is_alone(model_id: str, availability: Availability) -> bool:
    """Returns whether a model has one replica, on a device of its own: then no call waits.

    Nothing else could run meanwhile, and what comes while it runs is the next batch. Nor is a request late that a small
    call could answer, as long as larger ones carry the demand.
    """
    return len(availability.slots(model_id)) == 1 and len(availability.colocated_models(model_id)) == 1


def why_infeasible(request: InferenceRequest, slots: Sequence[ReplicaSlot], now: float) -> str:
    """Returns in words why a request cannot be in time."""
    finish = min(slot.expected_finish(now, 1) for slot in slots)
    if finish == math.inf:
        return "it cannot be in time: no replica of its model is there"
    left_ms, needs_ms = (request.deadline - now) * 1e3, (finish - now) * 1e3
    return (
        f"it cannot be in time: {left_ms:.0f} ms were left of {(request.deadline - request.received_at) * 1e3:.0f}"
        f" ms, and an answer takes {needs_ms:.0f} ms, those that go first not counted"
    )


def alternating(begins: Mapping[str, float], called_at: Mapping[str, float], until: float) -> list[str]:
    """Returns models in turn where robots of one play chunks, which may starve for long: else its calls took all turns.

    Args:
        begins: by model, when its next call must begin; infinite where all that waits for it is late.
        called_at: by model, when its last call began: of those that must begin soon, the one not called for longest is
            first.
        until: what is soon: a call of the others may last until then.
    """
    soon = [name for name, at in begins.items() if at <= until or at == math.inf]
    soon.sort(key=called_at.__getitem__)
    return soon + sorted(begins.keys() - set(soon), key=begins.__getitem__)


class ModelState:
    """State of one model, whether anything waits for it or not.

    Args:
        calls_since_late: with how many calls it begins since the last one for a late client.
    """

    __slots__ = (
        "called_at",
        "calls_since_late",
        "chunk_share",
        "chunks",
        "demand",
        "empty_until",
        "needed",
        "needed_since",
        "overloaded_at",
        "unserved",
    )

    def __init__(self, calls_since_late: int) -> None:
        self.demand: Demand = Demand()
        self.overloaded_at: float = -math.inf
        self.called_at: float = -math.inf
        self.calls_since_late: int = calls_since_late
        self.chunks: ChunkLane | None = None
        """Its requests that are chosen by robot time; it outlives the lane, since it knows when robots were served."""
        self.chunk_share: float = 0.0
        """Part of a call that robots which play chunks are due, beside other clients."""
        self.needed: int = 1
        self.needed_since: float = -math.inf
        self.empty_until: dict[str, float] = {}
        """By replica, until when a call on it would be empty, because other replicas can answer in time what waits."""
        self.unserved: OrderedDict[str, float] = OrderedDict()
        """Clients whose last request ended without an answer, and since when they wait for one."""

    def is_turn_of_chunks(self, waiting: int) -> bool:
        """Returns whether the next call is one by robot time: where others wait too, in proportion.

        Args:
            waiting: how many requests wait, of both kinds.
        """
        count = 0 if self.chunks is None else len(self.chunks)
        if not count:
            return False
        self.chunk_share += count / waiting
        if self.chunk_share < 1:
            return False
        self.chunk_share %= 1.0
        return True

    def note_unserved(self, client_id: str, since: float) -> None:
        """Notes that the last waiting request of a client ended without an answer."""
        self.unserved[client_id] = since
        if len(self.unserved) > _MAX_UNSERVED:
            self.unserved.popitem(last=False)
