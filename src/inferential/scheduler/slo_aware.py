"""`slo_aware`: meets deadlines, by the known latencies of the models' calls.

The orders within one model are in `slo_lane`, latencies in `time.profile`; batches and their start are decided here.

While every deadline can be met, requests go by the earliest deadline, which meets them all if any order does. A request
is late from the moment on at which a call of the size that the model needs (see below) would, by the high quantile of
its latency, end after its deadline, the soonest slot that is expected to be free considered; late ones no longer
delay the others (early drop: Clockwork, Nexus), and are served after them or refused, as their clients ask.

    needed size    the smallest batch whose rate carries what is asked of the model and of those that share its device,
                   at UTILISATION of the time; but no larger than the half of a request's time allows
    batch          in order, each request that the batch so far still leaves in time, until the tightest member would
                   miss by one row more
    waiting        if fewer wait than the needed size, and more clients are there to ask, until the latest start of
                   the tightest (deferred batching: Symphony); not at low load, where the needed size is 1. A model
                   with one replica on a device of its own plans by who is expected to ask, if known (`lookahead`)

Requests of robots that play chunks and say how many actions they have left are chosen by robot time instead, as
`chunk_lane` says (`objective`); where both kinds wait for a model, each has calls in proportion to how many wait.

Under overload (a request that could have been in time became late, or was superseded before its turn, in the last
CALM_S) no order meets all deadlines, and serving the earliest first would fail clients at random. Then
clients take turns, weighted, as `slo_lane` says. One call in LATE_SHARE begins with a client whose requests are all
late and whose turn has come, so that one that can never be in time does not starve where others always can.

Sources: Clockwork (Gujarati et al., OSDI 2020), Nexus (Shen et al., SOSP 2019), Symphony (Chen et al., 2023),
Shepherd (Zhang et al., NSDI 2023).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inferential.scheduler.base import register_scheduler
from inferential.scheduler.chunk_lane import ChunkLane, limits_of
from inferential.scheduler.queued import QueueScheduler
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.slo_lane import SloLane
from inferential.scheduler.slo_model import (
    ModelState,
    alternating,
    answer_within_s,
    infeasible_from,
    is_alone,
    is_crowded_out,
    must_begin_by,
    planned_call,
    rows_wanted,
    smallest_sufficient,
    why_infeasible,
)
from inferential.scheduler.time.availability import ALWAYS_AVAILABLE, FREE, Availability, ReplicaSlot
from inferential.scheduler.time.robot_time import ChunkTime
from inferential.scheduler.weight import weight_of

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig

UTILISATION = 0.9
"""The share of its time that a replica is planned to be busy."""
CALM_S = 1.0
"""Seconds after its last sign until overload is over."""
LATE_SHARE = 16
"""One in this many calls of a model may begin with a client that cannot be in time although others can."""
CAUTION = 0.1
"""Where demand asks for batches: how far from the median to the high quantile a call may take for one more row."""
PROBE_S = 1.0
"""Seconds without a call after which a model is tried with an infeasible request: its speed may have changed."""
_NEED_HOLDS_S = 0.01  # demand changes slowly; it is not computed at every decision
_MAX_MODELS = 1024  # beyond it, those that nothing waits for are forgotten


@register_scheduler("slo_aware")
class SloAwareScheduler(QueueScheduler[SloLane]):
    """Serves the earliest deadline first among requests that can be in time, in batches that keep them in time."""

    strategy = "slo_aware"
    window: int | None = None
    gives_whole_calls = True

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config)
        options = config.slo_aware
        self._starvation_s = options.starvation_ms / 1e3
        self._weighted = options.overload == "priority"
        self._any_chunks = False
        self._by_robot_time = options.objective == "robot_time"
        self._availability: Availability = ALWAYS_AVAILABLE
        self._models: dict[str, ModelState] = {}

    def new_lane(self) -> SloLane:
        return SloLane(self._starvation_s, weighted=self._weighted)

    def bind(self, availability: Availability) -> None:
        self._availability = availability

    # Entering

    def _push(self, lane: SloLane, request: InferenceRequest) -> None:
        now = time.monotonic()
        model = self._model(request.pool)
        model.demand.note(request.client_id, now)
        model.empty_until.clear()
        if self._by_robot_time and request.chunk is not None:
            self._push_chunk(lane, model, request, request.chunk)
            return
        if model.plans:
            time_s = request.deadline - request.received_at
            model.expected.note(request.client_id, now, request.time_until_next, time_s, weight_of(request))
        if request.waiting_since < request.received_at:
            model.overloaded_at = now  # the request that it superseded was not served
        since = min(model.unserved.pop(request.client_id, math.inf), request.waiting_since)
        lane.enter(request, request.deadline - self._needed_s(request), since)
        if self._misses(request, now):
            lane.is_late(request, infeasible_from(request, self._availability.slots(request.pool), now))
        elif request.late == "refuse" and is_crowded_out(
            request, lane, self._availability, self._need(request.pool, now), now
        ):
            lane.is_late(request, -math.inf)

    def _push_chunk(self, lane: SloLane, model: ModelState, request: InferenceRequest, chunk: ChunkTime) -> None:
        if model.chunks is None:
            model.chunks = ChunkLane(self._starvation_s, weighted=self._weighted)
        lane.chunks, self._any_chunks = model.chunks, True
        model.chunks.push(request, *limits_of(request, chunk, self._availability.slots(request.pool)))

    def _misses(self, request: InferenceRequest, now: float) -> bool:
        """Returns whether no replica can answer it in time, even if it begins as soon as one is free."""
        slots = self._availability.slots(request.pool)
        return all(slot.finish(now, self._wanted(request, slot)) > request.deadline for slot in slots)

    # Leaving

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        """Removes and returns what the model's first free replica would run next, up to `limit` (None: 1)."""
        slot = min(self._availability.slots(model_id), key=lambda slot: slot.free_at)
        rows = self.unit if limit is None else limit
        if model_id in self._lanes:
            self._note_late(self._lanes[model_id], time.monotonic())
        return self.next_batch_on(ReplicaSlot(model_id, slot.replica, min(rows, slot.max_batch_size), slot.profile))

    def next_batch_on(self, slot: ReplicaSlot, filled: int = 0) -> list[InferenceRequest]:
        """Removes and returns a whole call, so [] where `filled` is not 0; [] also to wait for more.

        The engine has called `take_infeasible` before, which notes what has become late.
        """
        lane = self._lanes.get(slot.model_id)
        if lane is None or filled:
            return []
        now = time.monotonic()
        begins_at, batch = self._planned(lane, slot, now)
        if begins_at > now:
            return []
        model = self._model(slot.model_id)
        for request in batch:
            lane.served(request, now)
        batch = batch or self._choose(lane, slot, model, now)
        if batch:
            model.called_at = now
            model.calls_since_late += 1
        else:
            model.empty_until[slot.replica] = lane.overdue_at()
        if not lane:
            del self._lanes[slot.model_id]
        self._forget_all(batch)
        return batch

    def _choose(self, lane: SloLane, slot: ReplicaSlot, model: ModelState, now: float) -> list[InferenceRequest]:
        """Removes and returns the requests of one call that begins now."""
        limit = min(slot.max_batch_size, slot.profile.explored())
        chunks = lane.chunks
        if chunks and (not lane.has_others or model.is_turn_of_chunks(len(lane))):
            # Where more robots starve than the next calls take, to have asked earlier would help none of them.
            starve = chunks.starve(now, limit * len(self._availability.slots(slot.model_id)) + 1)
            return chunks.take(slot.profile, limit, now, None if starve else model.answer_within_s)
        overloaded = self._is_overloaded(slot.model_id, now)
        largest_within, caution = slot.profile.largest_within, CAUTION if model.needed > 1 else 1.0
        batch: list[InferenceRequest] = []
        if model.calls_since_late >= LATE_SHARE and (starving := lane.starving(now)) is not None:
            model.calls_since_late = 0
            lane.served(starving, now)
            batch.append(starving)
        while len(batch) < limit:
            request = lane.next_in_turn() if overloaded else lane.earliest()
            if request is None:
                break
            rows = largest_within(request.deadline - now, limit, caution)
            if rows < limit and rows < self._wanted(request, slot):
                if self._misses(request, now):
                    lane.is_late(request, infeasible_from(request, self._availability.slots(request.pool), now))
                    model.overloaded_at = now
                else:
                    lane.pass_over(request)  # another replica can answer it in time
                continue
            if rows <= len(batch):
                break  # with one row more it would be late; it is the first of the next call
            limit = min(limit, rows)
            lane.served(request, now)
            batch.append(request)
        while len(batch) < limit and (request := lane.oldest_late()) is not None:
            lane.served(request, now)
            batch.append(request)
        lane.end_of_choice()
        if not batch and chunks is not None and len(chunks):
            return chunks.take(slot.profile, limit, now)
        return batch

    def ready_at(self, model_id: str) -> float | None:
        """Returns when the model's next call is to begin; None where nothing waits for it."""
        return self.ready_on(min(self._availability.slots(model_id), key=lambda slot: slot.free_at))

    def ready_on(self, slot: ReplicaSlot) -> float | None:
        """Returns when the next call of this replica is to begin; None where nothing waits for its model."""
        lane = self._lanes.get(slot.model_id)
        if lane is None:
            return None
        empty_until = self._model(slot.model_id).empty_until.get(slot.replica, -math.inf)
        return max(self._planned(lane, slot, time.monotonic())[0], empty_until)

    def _planned(self, lane: SloLane, slot: ReplicaSlot, now: float) -> tuple[float, list[InferenceRequest]]:
        """Returns when the next call begins, and its requests if they are planned, by who is expected to ask."""
        model = self._model(slot.model_id)
        if model.plans and not lane.chunks and self._need(slot.model_id, now) > 1:
            is_for_late = model.calls_since_late >= LATE_SHARE and lane.starving(now) is not None
            planned = None if is_for_late else planned_call(lane, model.expected, slot, now, CAUTION)
            if planned is not None:
                return planned
        return self._waits_until(lane, slot, now), []

    def _waits_until(self, lane: SloLane, slot: ReplicaSlot, now: float) -> float:
        """Returns until when a call waits for more rows, alike for all free replicas; -inf: it does not wait."""
        if chunks := lane.chunks:
            if lane.has_others or chunks.starve(now, slot.max_batch_size):
                return -math.inf
            model = self._model(slot.model_id)
            enough = min(self._need(slot.model_id, now), slot.max_batch_size, model.demand.clients(now))
            return chunks.waits_until(slot.profile, enough, now)
        first, live = lane.earliest(), lane.live_count
        if first is None:
            return -math.inf
        needed = min(self._need(slot.model_id, now), slot.max_batch_size)
        model = self._model(slot.model_id)
        enough = live >= min(needed, model.demand.clients(now)) or (self._any_chunks and len(lane) >= needed)
        if enough or is_alone(slot.model_id, self._availability):
            return -math.inf
        must_begin = must_begin_by(first.deadline, live + 1, slot, self._availability, self._models)
        # Not the present rate, which falls while nothing comes, so that the end of the wait would move away from it.
        return min(must_begin, first.waiting_since + 2 * needed / max(model.demand.last_per_second(), 1e-9))

    def in_turn(self, model_ids: Sequence[str]) -> Sequence[str]:
        """Returns the models, first that whose request must begin soonest; under overload, whose turn comes first."""
        now = time.monotonic()
        begins = {model_id: self._begins(model_id, now) for model_id in model_ids}
        chunks = [slot for name in model_ids if self._model(name).chunks for slot in self._availability.slots(name)]
        if not chunks:
            return sorted(model_ids, key=begins.__getitem__)
        called_at = {name: self._model(name).called_at for name in model_ids}
        until = now + max(slot.profile.typical(slot.max_batch_size) for slot in chunks)
        return alternating(begins, called_at, math.inf if self._is_overloaded(model_ids[0], now) else until)

    def _begins(self, model_id: str, now: float) -> float:
        lane = self._lanes.get(model_id)
        if lane is None:
            return math.inf
        if lane.starving(now) is not None and self._model(model_id).calls_since_late >= LATE_SHARE:
            return -math.inf
        first = lane.earliest()
        slot = min(self._availability.slots(model_id), key=lambda slot: slot.free_at)
        if lane.chunks is not None and len(lane.chunks):
            return lane.chunks.runs_out_at() - slot.profile.high(min(len(lane.chunks), slot.max_batch_size))
        if first is None:
            return math.inf
        if self._is_overloaded(model_id, now):
            return lane.first_turn()
        return first.deadline - slot.profile.high(min(lane.live_count, slot.max_batch_size))

    def on_client_disconnected(self, client_id: str) -> None:
        """Removes the client's waiting requests, and forgets since when it waited."""
        super().on_client_disconnected(client_id)
        for model in self._models.values():
            model.forget(client_id)

    def _leave_lane(self, request: InferenceRequest) -> None:
        since = self._lanes[request.pool].waits_since(request.client_id)
        super()._leave_lane(request)
        lane = self._lanes.get(request.pool)
        if since is not None and (lane is None or lane.waits_since(request.client_id) is None):
            self._model(request.pool).note_unserved(request.client_id, since)

    # Becoming late

    def take_infeasible(self) -> list[tuple[InferenceRequest, str]]:
        """Removes and returns requests that cannot be in time and want to be refused then, each with the reason."""
        now = time.monotonic()
        infeasible: list[tuple[InferenceRequest, str]] = []
        for model_id, lane in [item for item in self._lanes.items() if not item[1].loses_nothing(now)]:
            for spent in lane.spent(now):
                self.remove(spent)
                infeasible.append((spent, "it waited too long: no action of its chunk would be left to play"))
            self._note_late(lane, now)
            while (request := lane.infeasible(now)) is not None:
                model = self._model(model_id)
                if not lane.live_count and now - model.called_at > PROBE_S:
                    model.called_at = now
                    lane.serve_late(request)
                    continue
                self.remove(request)
                infeasible.append((request, why_infeasible(request, self._availability.slots(model_id), now)))
        return infeasible

    def take_outdated(self) -> list[InferenceRequest]:
        """Returns waiting requests whose robots are to be asked for a newer observation, each of them once."""
        if not self._any_chunks:
            return []
        now = time.monotonic()
        outdated: list[InferenceRequest] = []
        for model_id, lane in self._lanes.items():
            if lane.chunks is None or not lane.chunks.settle():
                continue
            slots = self._availability.slots(model_id)
            free = next((slot for slot in slots if slot.free_at == FREE), None)
            if free is not None and (lane.chunks.due_at(slots) > now or self._waits_until(lane, free, now) <= now):
                continue  # a call begins now
            outdated += lane.chunks.take_outdated(now, slots)
        return outdated

    def infeasible_at(self) -> float | None:
        """Returns when the next late request that wants to be refused becomes infeasible; None: there is none."""
        at = math.inf
        for model_id, lane in self._lanes.items():
            at = min(at, lane.infeasible_at())
            if (chunks := lane.chunks) is not None and chunks.may_be_due:
                at = min(at, chunks.due_at(self._availability.slots(model_id)))
        return at if at < math.inf else None

    def _note_late(self, lane: SloLane, now: float) -> None:
        """Makes live requests late whose latest start has passed."""
        while (request := lane.overdue(now)) is not None:
            latest_start = request.deadline - self._needed_s(request)
            if latest_start >= now:
                lane.starts_again(request, latest_start)
            else:
                lane.is_late(request, infeasible_from(request, self._availability.slots(request.pool), now))
                self._model(request.pool).overloaded_at = now

    # What calls take

    def _needed_s(self, request: InferenceRequest) -> float:
        """Returns how many seconds before its deadline a request must begin on an idle replica."""
        return min(slot.profile.high(self._wanted(request, slot)) for slot in self._availability.slots(request.pool))

    def _wanted(self, request: InferenceRequest, slot: ReplicaSlot) -> int:
        """Returns the batch size that must fit before its deadline."""
        needed = min(self._model(request.pool).needed, slot.max_batch_size)
        return 1 if needed == 1 else rows_wanted(request, slot, needed, self._availability)

    def _need(self, model_id: str, now: float) -> int:
        """Returns the smallest batch size that carries the demand for the model and those on its device."""
        model = self._model(model_id)
        if now - model.needed_since >= _NEED_HOLDS_S:
            model.needed_since = now
            colocated_models = [
                (self._model(other).demand.per_second(now), self._availability.slots(other))
                for other in self._availability.colocated_models(model_id)
            ]
            slots = self._availability.slots(model_id)
            model.needed = smallest_sufficient(slots, colocated_models, UTILISATION)
            model.plans = model.needed > 1 and is_alone(model_id, self._availability)
            if model.chunks is not None:
                model.answer_within_s = answer_within_s(slots, model.demand.clients(now))
        return model.needed

    def _is_overloaded(self, model_id: str, now: float) -> bool:
        others = self._availability.colocated_models(model_id)
        return any(now - self._model(other).overloaded_at < CALM_S for other in others)

    def _model(self, model_id: str) -> ModelState:
        model = self._models.get(model_id)
        if model is None:
            if len(self._models) >= _MAX_MODELS:
                self._models = {known: model for known, model in self._models.items() if known in self._lanes}
            model = self._models[model_id] = ModelState(LATE_SHARE)
        return model

    def status(self) -> dict[str, Any]:
        """Returns what every strategy does, and by model its live and late requests and the batch size it needs."""
        now, lanes = time.monotonic(), {}
        for model_id, lane in self._lanes.items():
            chunks = len(lane.chunks or ())
            lanes[model_id] = {
                "live": lane.live_count,
                "late": len(lane) - lane.live_count - chunks,
                "chunks": chunks,
                "needed_batch_size": self._need(model_id, now),
                "overloaded": self._is_overloaded(model_id, now),
            }
        return super().status() | {"lanes": lanes}
