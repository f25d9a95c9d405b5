"""One request on its way through the server, and the states it may be in.

It decides nothing: admission and strategies do, and every change of state passes `move`.

All transitions of a request:

     +------- bypass -----+
     |                    v
    NEW -> QUEUED -> DISPATCHED -> ANSWERED
     |       |  ^        |  |
     |       |  +--------+  |      (a retry goes back into the queue)
     +-------+--------------+----> REFUSED

ANSWERED and REFUSED are ends, and a request reaches exactly one of them exactly once. REFUSED comes with a
`Refusal`: what the client receives, or, where it cannot receive it, what is counted instead.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from inferential.errors import InferentialError
from inferential.proto.seen import Seen
from inferential.scheduler.time.robot_time import ChunkTime

Buffer = bytes | bytearray | memoryview

_arrivals = itertools.count()


class RequestState(enum.Enum):
    """The states of a request."""

    NEW = "new"
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    ANSWERED = "answered"
    REFUSED = "refused"

    if not TYPE_CHECKING:  # equal is identical; hashing the name takes longer than a move does otherwise
        __hash__ = object.__hash__


# CPython 3.11 takes ten times as long to look a state up in its class, by a function of the class's own.
NEW, QUEUED, DISPATCHED, ANSWERED, REFUSED = RequestState


class RefusalKind(enum.Enum):
    """Why a request ended without a result: one kind for each error type of the client."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    UNKNOWN_MODEL = "unknown_model"
    INVALID_OBSERVATION = "invalid_observation"
    MODEL_FAILED = "model_failed"
    MODEL_LOADING = "model_loading"
    MODEL_FAILING = "model_failing"
    BATCH_FAILED = "batch_failed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of a request that got no result.

    Attributes:
        kind: decides the client's error type.
        reason: in words, for a person.
        cause: in one word, for programs and metrics: few distinct ones, whatever clients send.
        logged: whether a line of the log says it already.
    """

    kind: RefusalKind
    reason: str
    cause: str
    logged: bool = False


QUEUE_FULL = "queue_full"
"""Cause of a refusal because the queue is full."""
CLIENT_GONE = "client_gone"
"""Cause of a refusal that has no reader, because the client is gone."""
DRAINING = "draining"
"""Cause of a refusal by a server that ends."""
NOT_ACCEPTED = "not_accepted"
"""Cause of a refusal of every request of a client that the configuration does not accept."""
MODEL_NOT_ALLOWED = "model_not_allowed"
PAYLOAD_NOT_ALLOWED = "payload_not_allowed"
"""Causes of refusals by a client's rights, which the same request meets again."""
TOO_FAST = "rate"
"""Cause of a refusal of a client that asks more often than it may."""
NEW_EPISODE = Refusal(RefusalKind.SUPERSEDED, "its robot began a new episode", "episode")
SUPERSEDED = Refusal(RefusalKind.SUPERSEDED, "a newer observation took its place", "newer")
"""Ends a request whose place a newer one of the same client and model takes while it waits."""
STALE = Refusal(RefusalKind.REJECTED, "while it waited it became older than observations.max_staleness_ms", "stale")
CANCELLED = Refusal(RefusalKind.REJECTED, "its robot cancelled it", "cancelled")
CLIENT_LEFT = Refusal(RefusalKind.REJECTED, "the client is gone", CLIENT_GONE)
"""Ends the requests of a connection that has ended."""


_NEXT: dict[RequestState, frozenset[RequestState]] = {
    NEW: frozenset({QUEUED, DISPATCHED, REFUSED}),
    QUEUED: frozenset({DISPATCHED, REFUSED}),
    DISPATCHED: frozenset({QUEUED, ANSWERED, REFUSED}),
    ANSWERED: frozenset(),
    REFUSED: frozenset(),
}


class IllegalTransition(InferentialError):
    """A request was moved to a state that its present one does not lead to: a bug in the server."""


def episode_key(request: InferenceRequest) -> str:
    """Returns which episode of which connection a request belongs to."""
    return f"{request.request_id >> 32:x}.{request.episode}"


def family_of(pool: str) -> str:
    """Returns the model whose version a pool is: that of `pi0@2026-11-20#2` is `pi0`, and so is that of `pi0`."""
    return pool.partition("%")[0].partition("#")[0].partition("@")[0] or pool


def whole_pool(request: InferenceRequest) -> str:
    """Returns the pool of a request; where replicas keep state, and each is a pool of its own, that of all of them."""
    # One for a probe, or for the shadow, is of no replica.
    return (request.keeps_state and request.pool.rpartition("%")[0]) or request.pool


def is_of(pool: str, model_id: str) -> bool:
    """Returns whether a pool is of a version of a model, or of its only one."""
    return pool == model_id or (pool.startswith(model_id) and pool[len(model_id)] in "@#%")


@dataclass(slots=True, eq=False)
class InferenceRequest:
    """One observation that asks one model for an answer.

    Times are seconds of `time.monotonic()`. Two requests are equal only if they are the same object.

    Attributes:
        client_id: the client.
        model_id: the model that it asks.
        identity: the ZeroMQ routing id of its sender.
        envelope: the serialized `Observation`.
        payload: the bytes of its tensors.
        received_at: when it came in.
        urgency: 0 to 1, as sent by the client.
        steps_remaining: actions that the client still has; None where it did not say.
        time_until_next: seconds from `received_at` until the client's cadence makes its next observation due;
            negative: it was overdue by that much.
        latency_budget_ms: how old the action may be when it arrives.
        priority: 0 is the highest.
        score: the last score a strategy gave it.
        retry_count: how often it was tried again.
        replicas_lost: how many replicas of its model have died while it ran there.
        request_id: the client's own number for it, 0 from a client of the 1.x line.
        response_id: the server's name for its answer.
        protocol_version: 0 from a client of the 0.1 and 1.x lines, which understands no refusal.
        takes_latest: a newer request of the same client and model takes its place while it waits.
        slots: the tensors' places in the payload, where they have been read.
        metadata: the strings of the observation, where they have been read.
        deadline: when its answer is needed, as `scheduler.time.deadline` finds it; where it is not given, `received_at`
            and the latency budget.
        serve_interval_ms: the shortest interval at which its client can be served, sent with the answer; 0: no limit.
        connection: number of the connection that it came by and its answer goes to, below 0 for a client in this
            process; 0: none.
        control_period_s: how long its robot plays one action of a chunk; None where it did not say.
        pace_s: seconds from its call to its connection's next one for the model, as its client asks for much more than
            its share; 0: no such limit; infinity: the next one waits for its end, see `in_order`.
        episode: how often its robot has begun a new episode with the model, see `proto.fields`. A connection numbers
            its episodes anew, and another one's request ids differ in their upper 32 bits.
        late: whether it is still served where it cannot be in time, after all that can, or refused at once.
        goes_aside: it goes after requests of clients that ask for less than their share, as `time.fair_share` finds.
        chunk: what an answer adds to a robot that plays chunks; None: not known.
        client_type: what kind of robot its client is, as that says.
        keeps_state: whether its pool keeps state of its robot: it does not run again once the model has begun with it.
        in_order: where its model has pools that keep state, robot and model: it runs when the former one of both has
            ended, whichever pools they have. None: nothing waits for its end.
        pool: which replicas may run it, see `models`: those of one version of its model; the model id where that has no
            versions. What is called a model in this package, in capacities, profiles and backends is such a pool.
        seen: when its values were seen; None where its robot did not say.
        stale_at: when it is too old to be served by what its robot says of its age; None: never.
        turn_at: when its robot was asked for a newer observation, when its turn comes; NaN: it was not asked.
        overdue_after_s: seconds of waiting after which it counts as overdue, whatever its client's cadence is.
        waiting_since: since when it waits in its own right; later than `received_at` where an older
            request of the same client and model stood before it.
        dispatched_at: when it was last handed to its model.
        inference_ms: from there to the model's answer, once it is answered.
        sent_at: when its answer was sent.
        rows: how many requests its call had.
        arrival: a number that grows with every request made; ties are broken by it. A request that supersedes
            another takes over its number and its `waiting_since`.
        state: where it stands.
        refusal: why it was refused.
        track: what the server tracks of its client and model, once its arrival is recorded.
    """

    client_id: str
    model_id: str
    identity: bytes
    envelope: Buffer
    payload: Buffer
    received_at: float
    urgency: float
    steps_remaining: int | None
    time_until_next: float
    latency_budget_ms: float
    priority: int
    score: float = 0.0
    retry_count: int = 0
    replicas_lost: int = 0
    request_id: int = 0
    response_id: str = ""
    protocol_version: int = 0
    takes_latest: bool = False
    slots: Sequence[Any] | None = None
    metadata: dict[str, str] | None = None
    deadline: float = float("nan")
    late: Literal["serve", "refuse"] = "serve"
    connection: int = 0
    serve_interval_ms: float = 0.0
    pace_s: float = 0.0
    control_period_s: float | None = None
    episode: int = 0
    goes_aside: bool = False
    chunk: ChunkTime | None = None
    client_type: str = ""
    keeps_state: bool = False
    in_order: tuple[str, str] | None = None
    pool: str = ""
    seen: Seen | None = None
    stale_at: float | None = None
    turn_at: float = field(default=float("nan"), repr=False)
    overdue_after_s: float = field(default=float("inf"), repr=False)
    waiting_since: float = field(default=float("nan"), repr=False)
    dispatched_at: float = field(default=0.0, repr=False)
    inference_ms: float = field(default=0.0, repr=False)
    sent_at: float = field(default=float("nan"), repr=False)
    rows: int = field(default=1, repr=False)
    arrival: int = field(default_factory=_arrivals.__next__, repr=False)
    state: RequestState = NEW
    refusal: Refusal | None = None
    track: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.pool:
            self.pool = self.model_id
        if self.waiting_since != self.waiting_since:  # NaN: not given
            self.waiting_since = self.received_at
        if self.deadline != self.deadline:
            self.deadline = self.received_at + self.latency_budget_ms / 1e3

    def __lt__(self, other: InferenceRequest) -> bool:
        """Orders requests in a heap that serves the highest score first, then the first to arrive."""
        if self.score != other.score:
            return self.score > other.score
        return self.arrival < other.arrival

    def move(self, state: RequestState) -> None:
        """Enters `state`.

        Raises:
            IllegalTransition: the present state does not lead to it.
        """
        if state not in _NEXT[self.state]:
            raise IllegalTransition(f"request {self.request_id} of client {self.client_id!r}: {self.state} -> {state}")
        self.state = state

    def refuse(self, refusal: Refusal) -> None:
        """Ends the request without a result."""
        self.move(REFUSED)
        self.refusal = refusal

    @property
    def floods(self) -> bool:
        """Whether its client asks its model for much more than its share."""
        return self.pace_s > 0 and not self.in_order

    @property
    def over(self) -> bool:
        """Whether it is ANSWERED or REFUSED."""
        return self.state is ANSWERED or self.state is REFUSED
