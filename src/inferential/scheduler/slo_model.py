"""State that `slo_aware` keeps of one model beside its queue, and the batch size that its load needs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from inferential.scheduler.chunk_lane import WAKE_S, ChunkLane
from inferential.scheduler.lookahead import Planned, next_call
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.slo_lane import SloLane
from inferential.scheduler.time.availability import ANY_BATCH_SIZE, Availability, ReplicaSlot
from inferential.scheduler.time.demand import Demand
from inferential.scheduler.time.expected import Expected

NEAR = 0.25
"""The share of a call's time that requests may be off the expected moment, on average, so that calls are planned."""
PLANNED_CALLS = 3
"""For the time of so many of the largest calls what is expected is planned."""
MOST_PLANNED_PER_S = 3000.0
"""Requests times rows of a call that are planned, for each second that a call takes: planning takes time with them, and
less than a hundredth of the call's so."""
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


def must_begin_by(
    deadline: float, rows: int, slot: ReplicaSlot, availability: Availability, models: Mapping[str, ModelState]
) -> float:
    """Returns when a call that waits for more rows is to begin at the latest, so that it ends before a deadline.

    Other models of its device whose robots play chunks begin a call as soon as that gains something: it may take the
    device just when this one has to begin, so this one begins so much earlier.

    Args:
        deadline: of its tightest member.
        rows: of the call.
        slot: a replica of its model, which counts where none is free.
        availability: of all replicas.
        models: what is known of each.
    """
    free = [one.profile.high(rows) for one in availability.slots(slot.model_id) if one.free_at == -math.inf]
    others = [name for name in availability.colocated_models(slot.model_id) if name != slot.model_id and name in models]
    of_chunks = [one for name in others if models[name].chunks for one in availability.slots(name)]
    taken_s = [one.profile.typical(min(one.max_batch_size, one.profile.explored())) for one in of_chunks]
    return deadline - min(free, default=slot.profile.high(rows)) - WAKE_S - max(taken_s, default=0.0)


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


def rows_wanted(request: InferenceRequest, slot: ReplicaSlot, needed: int, availability: Availability) -> int:
    """Returns the batch size that must fit before a deadline: the needed one, or what half of its time allows."""
    carries_more = needed < slot.max_batch_size and needed < slot.profile.explored()
    if carries_more and is_alone(request.pool, availability):
        return 1
    return max(1, slot.profile.largest_within((request.deadline - request.received_at) / 2, needed))


def infeasible_from(request: InferenceRequest, slots: Sequence[ReplicaSlot], now: float) -> float:
    """Returns from when on a late request is refused that wants to be."""
    if not all(slot.profile.warm for slot in slots):
        return request.deadline  # too little is known to refuse it before
    if min(slot.expected_finish(now, 1) for slot in slots) > request.deadline:
        return -math.inf
    return request.deadline - min(slot.profile.typical(1) for slot in slots)


def is_crowded_out(
    request: InferenceRequest, lane: SloLane, availability: Availability, needed: int, now: float
) -> bool:
    """Returns whether those that go before it leave it no time, by the latency of calls of the needed size."""
    slots = availability.slots(request.pool)
    per_second = sum(slot.profile.rate(min(needed, slot.max_batch_size)) for slot in slots)
    start = min(max(now, slot.free_at) for slot in slots)
    last = min(slot.profile.typical(1) for slot in slots)
    room = (request.deadline - last - start) * per_second
    if lane.live_count - 1 <= room or not all(slot.profile.warm for slot in slots):
        return False
    before = sum(other.deadline < request.deadline and other.priority <= request.priority for other in lane.live())
    return before > room


def planned_call(
    lane: SloLane, expected: Expected, slot: ReplicaSlot, now: float, caution: float
) -> tuple[float, list[InferenceRequest]] | None:
    """Returns when the next call had better begin and with which requests, by who is expected to ask.

    Args:
        lane: what waits.
        expected: when clients ask next.
        slot: the model's only replica.
        now: seconds of `time.monotonic()`.
        caution: by which latency, from 0, the median, to 1, the high quantile.

    Returns:
        None where there is too much to plan or too little is known of it, where clients are not alike, and where the
        turn of one has come.
    """
    limit, profile = min(slot.max_batch_size, slot.profile.explored()), slot.profile
    if expected.off_s > NEAR * profile.typical(1) or not lane.live_count or lane.first_turn() <= now:
        return None
    latency_s = [profile.typical(n) + caution * (profile.high(n) - profile.typical(n)) for n in range(1, limit + 1)]
    requests: list[tuple[Planned, InferenceRequest | None]] = [
        (Planned(now, request.deadline), request) for request in lane.live()
    ]
    horizon_s = PLANNED_CALLS * latency_s[-1]
    requests += [(Planned(at, deadline), None) for at, deadline in expected.coming(now, now + horizon_s)]
    requests.sort(key=lambda one: one[0].deadline)
    if len(requests) * limit > MOST_PLANNED_PER_S * latency_s[0] or not expected.are_alike():
        return None
    call = next_call([planned for planned, _ in requests], now, latency_s)
    if call is None:
        return None
    chosen = requests[call.first : call.first + call.rows]
    return call.begins_at, [request for _, request in chosen if request is not None]


def answer_within_s(slots: Sequence[ReplicaSlot], clients: int) -> tuple[float, float] | None:
    """Returns how long an answer may take that is asked for when all replicas run: the wait for one, and its own call.

    Args:
        slots: of its model.
        clients: that ask it lately. Not more than their number's share of a call come at once, of each replica.

    Returns:
        By the high quantiles of a call and of the time until the first of the replicas is free, whose calls end at any
        time each: with so many clients, and with however many. None while a replica is not known well enough.
    """
    if not all(slot.profile.warm for slot in slots):
        return None
    share = math.ceil(clients / len(slots))
    lately_s, most_s = (
        max(slot.profile.high(min(rows, slot.max_batch_size, slot.profile.explored())) for slot in slots)
        for rows in (max(share, 1), ANY_BATCH_SIZE)
    )
    waits = 1 - (1 - slots[0].profile.quantile) ** (1 / len(slots))
    return lately_s * (1 + waits if share > 1 else 1), most_s * (1 + waits)


class ModelState:
    """State of one model, whether anything waits for it or not.

    Args:
        calls_since_late: with how many calls it begins since the last one for a late client.
    """

    __slots__ = (
        "answer_within_s",
        "called_at",
        "calls_since_late",
        "chunk_share",
        "chunks",
        "demand",
        "empty_until",
        "expected",
        "needed",
        "needed_since",
        "overloaded_at",
        "plans",
        "unserved",
    )

    def __init__(self, calls_since_late: int) -> None:
        self.demand: Demand = Demand()
        self.expected: Expected = Expected()
        self.plans: bool = False
        """Whether its calls are planned by who is expected, so that requests are noted there."""
        self.overloaded_at: float = -math.inf
        self.called_at: float = -math.inf
        self.calls_since_late: int = calls_since_late
        self.chunks: ChunkLane | None = None
        """Its requests that are chosen by robot time; it outlives the lane, since it knows when robots were served."""
        self.chunk_share: float = 0.0
        """Part of a call that robots which play chunks are due, beside other clients."""
        self.answer_within_s: tuple[float, float] | None = None
        """How long an answer to a robot that plays chunks may take, by how many ask lately, and at most."""
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

    def forget(self, client_id: str) -> None:
        """Forgets a client that is gone."""
        self.unserved.pop(client_id, None)
        self.expected.forget(client_id)
        if self.chunks is not None:
            self.chunks.forget(client_id)

    def note_unserved(self, client_id: str, since: float) -> None:
        """Notes that the last waiting request of a client ended without an answer."""
        self.unserved[client_id] = since
        if len(self.unserved) > _MAX_UNSERVED:
            self.unserved.popitem(last=False)
