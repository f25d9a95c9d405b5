"""The mind of a connection: which response belongs to which observation, and what waits to be sent.

It has no socket, no lock and no thread: `client.sync` and `client.aio` give it frames and time and do what it says.

A request id is 64 bits: 31 random ones drawn once per connection, then a counter. So ids grow within a connection,
and an answer to a former life of the same client id matches nothing.

Responses of a server of the 1.x line carry no request id. They are matched to the oldest open request of their
model, which is right as long as that server answers in order and drops nothing; it is the best that line allows.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary, finalize, ref

from inferential.client.encoding import EncodingRules
from inferential.client.result import ClientStats, Result
from inferential.errors import (
    InferenceError,
    InvalidObservation,
    ModelFailed,
    RequestExpired,
    RequestRejected,
    RequestSuperseded,
    UnknownModel,
)
from inferential.proto import (
    LATE_REFUSE,
    LATE_SERVE,
    LATE_UNSPECIFIED,
    PROTOCOL_VERSION,
    QUEUE_ALL,
    QUEUE_LATEST,
    Observation,
    Status,
)
from inferential.proto.messages import Content, put_metadata
from inferential.proto.responses import ResponseReader
from inferential.proto.templates import ObservationTemplate, Signature
from inferential.proto.tensors import Buffer, Payload, Tensors, describe, pack, pieces

QueueChoice = Literal["latest", "all"]
LateChoice = Literal["serve", "refuse"]
Outcome = Result | InferenceError
Frames = tuple[bytes, bytes, Payload]
Told = tuple[float, int | None, int | None]
"""What a robot says of one observation: urgency, steps_remaining, and a priority where it is not the handle's."""
NOTHING_TOLD: Told = (0.0, None, None)

MAX_OPEN = 1024
"""Open requests that one handle keeps in mind; older ones are forgotten, and their answers count as unmatched."""
MAX_UNSENT = 256
"""Observations of queue="all" that wait for a server that cannot be reached."""
MAX_UNREAD = 1024
"""Outcomes that wait in one handle for `get_result`; the oldest go first."""

_TEMPLATES = 16  # of one handle: a robot's observations have one shape, or a few

MAX_NAME_BYTES = 255
"""Of a client's id and type: what a ZeroMQ identity holds."""

_LATE = {None: LATE_UNSPECIFIED, "serve": LATE_SERVE, "refuse": LATE_REFUSE}

_OK = Status.OK  # a name of an enumeration is looked up by a function
_ERRORS: dict[int, type[InferenceError]] = {
    Status.REJECTED: RequestRejected,
    Status.EXPIRED: RequestExpired,
    Status.SUPERSEDED: RequestSuperseded,
    Status.UNKNOWN_MODEL: UnknownModel,
    Status.INVALID_OBSERVATION: InvalidObservation,
    Status.MODEL_FAILED: ModelFailed,
}


class _Untold(float):
    """A default that nobody chose: it is not sent, so that the server can go by what it knows of the robot."""


UNTOLD_BUDGET_MS = _Untold(50.0)
"""The latency budget of a handle that was given none."""


@dataclass(frozen=True, slots=True)
class Handle:
    """What the user said of one model handle."""

    model_id: str
    latency_budget_ms: float
    priority: int
    queue: QueueChoice
    rules: EncodingRules
    control_rate_hz: float | None = None
    late: LateChoice | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model_id, str) or not self.model_id or not self.model_id.isprintable():
            raise ValueError(f"model_id: expected the id of a model, got {self.model_id!r}")
        if not (self.latency_budget_ms > 0 and math.isfinite(self.latency_budget_ms)):
            raise ValueError(f"latency_budget_ms: expected a finite number above 0, got {self.latency_budget_ms!r}")
        if not 0 <= self.priority < 2**32:
            raise ValueError(f"priority: expected 0 (the highest) to 2**32 - 1, got {self.priority!r}")
        if self.queue not in ("latest", "all"):
            raise ValueError(f"queue: expected 'latest' or 'all', got {self.queue!r}")
        rate = self.control_rate_hz
        if rate is not None and not (rate > 0 and math.isfinite(rate)):
            raise ValueError(f"control_rate_hz: expected a finite number above 0, got {rate!r}")
        if self.late not in (None, "serve", "refuse"):
            raise ValueError(f"late: expected 'serve', 'refuse' or None, got {self.late!r}")

    @property
    def told_budget_ms(self) -> float:
        """As it stands on the wire: 0 where it was not told."""
        return 0.0 if isinstance(self.latency_budget_ms, _Untold) else self.latency_budget_ms

    @property
    def control_period_ms(self) -> float:
        """As it stands on the wire: 0 where it was not told."""
        return 0.0 if self.control_rate_hz is None else 1e3 / self.control_rate_hz


class Mailbox:
    """The open requests and unread outcomes of one model handle."""

    def __init__(self, handle: Handle, stats: ClientStats) -> None:
        self.handle = handle
        self.templates: dict[Signature, ObservationTemplate] = {}
        self.open: OrderedDict[int, float] = OrderedDict()
        self.reference = ref(self)  # one for all requests
        self.unsent_id = 0
        self.serve_interval_ms = 0.0
        self.unread: deque[tuple[int, Outcome]] = deque()
        """What `take` gives, the newest last."""
        self._stats = stats
        self._kept: dict[int, Outcome | None] = {}
        self._newest_result = 0

    def opened(self, request_id: int, at: float, *, keep: bool) -> None:
        """Notes a request; with `keep` its outcome waits for `take_kept` alone."""
        self.open[request_id] = at
        if keep:
            self._kept[request_id] = None

    def forget_oldest(self) -> int:
        """Closes the oldest request, and gives its id."""
        return self.open.popitem(last=False)[0]

    def deliver(self, request_id: int, outcome: Outcome) -> None:
        """Puts an outcome where `take` or `take_kept` finds it."""
        self.open.pop(request_id, None)
        if isinstance(outcome, Result):
            self._stats.results += 1
        elif isinstance(outcome, RequestSuperseded):
            self._stats.superseded += 1
        else:
            self._stats.refused += 1
        if request_id in self._kept:
            self._kept[request_id] = outcome
            return
        if isinstance(outcome, RequestSuperseded):
            return
        if self.handle.queue == "latest" and isinstance(outcome, Result):
            if request_id and request_id < self._newest_result:
                self._stats.outdated += 1
                return
            self._newest_result = max(self._newest_result, request_id)
            self._stats.outdated += sum(isinstance(unread, Result) for _, unread in self.unread)
            self.unread.clear()
        self.unread.append((request_id, outcome))
        if len(self.unread) > MAX_UNREAD:
            self.unread.popleft()
            self._stats.outdated += 1

    def take(self) -> Outcome | None:
        """The next unread outcome."""
        return self.unread.popleft()[1] if self.unread else None

    def take_kept(self, request_id: int) -> Outcome | None:
        """The outcome of one request that was opened with `keep`."""
        if self._kept.get(request_id) is None:
            return None
        return self._kept.pop(request_id)

    def abandon(self, request_id: int) -> None:
        """Nobody waits for this request any more; its outcome will count as unmatched."""
        self._kept.pop(request_id, None)
        self.open.pop(request_id, None)


class Session:
    """All handles of one connection, what they wait for, and what could not be sent yet."""

    def __init__(self, client_id: str | int, client_type: str) -> None:
        # 48 random bits: a fleet of a million unnamed robots meets a collision once in centuries.
        self.client_id = _name("client_id", str(client_id)) or f"client-{secrets.token_hex(6)}"
        self.client_type = _name("client_type", client_type)
        self.stats = ClientStats()
        self._responses = ResponseReader()
        self._ids = itertools.count((secrets.randbits(31) | 1) << 32)
        # A mailbox lives as long as its handle (or an observation that is yet to be sent): nobody else can read it.
        self._owners: dict[int, ref[Mailbox]] = {}
        self._mailboxes: dict[str, WeakValueDictionary[int, Mailbox]] = {}
        self._serials = itertools.count()
        self._unsent: OrderedDict[int, tuple[Mailbox, Frames]] = OrderedDict()
        self._unsent_count: dict[QueueChoice, int] = {"latest": 0, "all": 0}

    def mailbox(self, handle: Handle) -> Mailbox:
        """A mailbox for a new handle."""
        mailbox = Mailbox(handle, self.stats)
        finalize(mailbox, _forget, self._owners, mailbox.open).atexit = False
        self._mailboxes.setdefault(handle.model_id, WeakValueDictionary())[next(self._serials)] = mailbox
        return mailbox

    def observe(
        self,
        mailbox: Mailbox,
        content: Content,
        told: Told,
        now: float,
        timestamp_ns: int,
        keep: bool = False,
    ) -> tuple[int, Frames]:
        """Builds an observation and opens its request: (request id, frames to send).

        `content` is what `handle.rules.apply` gives: compressing takes milliseconds, and needs no session.

        Raises:
            TypeError, ValueError: for a dtype that the wire does not have, or a number that is none or out of range.
        """
        handle = mailbox.handle
        urgency, steps_remaining, priority = told
        tensors, metadata, signature = content
        request_id = next(self._ids)
        message = Observation()
        try:
            message.timestamp_ns = timestamp_ns
            message.request_id = request_id
            message.urgency = urgency
            message.priority = handle.priority if priority is None else priority
            if steps_remaining is not None:
                message.steps_remaining = steps_remaining
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"expected urgency a float, steps_remaining and priority whole numbers from 0 to 2**32 - 1; got "
                f"urgency={urgency!r}, steps_remaining={steps_remaining!r}, priority={priority!r}"
            ) from error
        if metadata:
            put_metadata(message.metadata, metadata)
        envelope, payload = self._written(mailbox, message, timestamp_ns, tensors, signature)
        self._owners[request_id] = mailbox.reference
        mailbox.opened(request_id, now, keep=keep)
        if len(mailbox.open) > MAX_OPEN:
            self._owners.pop(mailbox.forget_oldest(), None)
        self.stats.observed += 1
        return request_id, (b"", envelope, payload)

    def _written(
        self,
        mailbox: Mailbox,
        message: Observation,
        timestamp_ns: int,
        tensors: Tensors,
        signature: Signature | None,
    ) -> tuple[bytes, Payload]:
        """Envelope and payload of an observation of which so far `message` holds what is new."""
        if signature is None:
            self._fill(message, mailbox.handle)
            payload = pack(message.tensors, tensors, timestamp_ns)
            return message.SerializeToString(), payload
        new = message.SerializeToString()
        template = mailbox.templates.get(signature)
        if template is None:
            constant = Observation()
            self._fill(constant, mailbox.handle)
            describe(constant.tensors, signature, timestamp_ns)
            if len(mailbox.templates) >= _TEMPLATES:
                mailbox.templates.clear()
            template = mailbox.templates[signature] = ObservationTemplate(constant, timestamp_ns)
        envelope = template.envelope(timestamp_ns, new)
        if envelope is None:
            self._fill(message, mailbox.handle)
            describe(message.tensors, signature, timestamp_ns)
            envelope = message.SerializeToString()
        return envelope, pieces(tensors)

    def _fill(self, message: Observation, handle: Handle) -> None:
        """What all observations of a handle have in common."""
        message.client.id = self.client_id
        message.client.type = self.client_type
        message.model_id = handle.model_id
        message.latency_budget_ms = handle.told_budget_ms
        message.protocol_version = PROTOCOL_VERSION
        message.queue = QUEUE_LATEST if handle.queue == "latest" else QUEUE_ALL
        message.control_period_ms = handle.control_period_ms
        message.late = _LATE[handle.late]

    def receive(self, envelope: Buffer, payload: Buffer, now: float) -> None:
        """Takes one response to the mailbox that it belongs to."""
        try:
            response = self._responses.read(envelope, payload)
        except ValueError:
            self.stats.unmatched += 1
            return
        told = response.message
        request_id = told.request_id or self._oldest(response.model_id)
        owner = self._owners.pop(request_id, None)
        mailbox = owner() if owner is not None else None if request_id else self._newest_handle(response.model_id)
        if mailbox is None:
            self.stats.unmatched += 1
            return
        mailbox.serve_interval_ms = told.serve_interval_ms
        if told.status != _OK:
            kind = _ERRORS.get(told.status, InferenceError)
            mailbox.deliver(request_id, kind(told.reason, request_id=request_id, model_id=response.model_id))
            return
        observed_at = mailbox.open.get(request_id)
        age_ms = math.nan if observed_at is None else (now - observed_at) * 1e3
        mailbox.deliver(request_id, Result(response, request_id, age_ms))

    def _oldest(self, model_id: str) -> int:
        """Of the open requests of a model that were sent, the oldest; 0 where there is none."""
        firsts = [next(iter(mailbox.open)) for mailbox in self._of_model(model_id) if mailbox.open]
        return min((first for first in firsts if first not in self._unsent), default=0)

    def _newest_handle(self, model_id: str) -> Mailbox | None:
        mailboxes = self._of_model(model_id)
        return mailboxes[-1] if mailboxes else None

    def _of_model(self, model_id: str) -> list[Mailbox]:
        known = self._mailboxes.get(model_id)
        return [] if known is None else list(known.values())

    def abandon(self, mailbox: Mailbox, request_id: int) -> None:
        """Nobody waits for this request any more; if it is not sent yet, it never will be."""
        self._owners.pop(request_id, None)
        self._release(request_id)
        mailbox.abandon(request_id)

    # What waits while the server cannot be reached: of a "latest" handle the newest observation, of all "all"
    # handles together up to MAX_UNSENT in order.

    def has_unsent(self) -> bool:
        """Whether an observation waits to be sent."""
        return bool(self._unsent)

    def hold(self, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        """Keeps an observation that could not be sent; whether another ended for it, which somebody may wait for."""
        queue = mailbox.handle.queue
        ended = True
        if queue == "latest" and mailbox.unsent_id:
            replaced = mailbox.unsent_id
            self._release(replaced)
            self.stats.replaced_unsent += 1
            self._end(mailbox, replaced, RequestSuperseded("a newer observation came before it could be sent"))
        elif self._unsent_count[queue] >= MAX_UNSENT:
            # Of "latest" handles there are so many only where each observation gets a handle of its own.
            dropped = next(key for key, (owner, _) in self._unsent.items() if owner.handle.queue == queue)
            owner = self._unsent[dropped][0]
            self._release(dropped)
            self.stats.dropped_unsent += 1
            reason = f"{MAX_UNSENT} newer ones wait for a server that cannot be reached or does not keep up"
            self._end(owner, dropped, RequestRejected(reason))
        else:
            ended = False
        self._unsent[request_id] = (mailbox, frames)
        self._unsent_count[queue] += 1
        if queue == "latest":
            mailbox.unsent_id = request_id
        return ended

    def next_unsent(self) -> tuple[int, Frames] | None:
        """The observation to send next, with its id; `sent` says that it is gone."""
        for request_id, (_, frames) in self._unsent.items():
            return request_id, frames
        return None

    def sent(self) -> None:
        """What `next_unsent` gave was sent."""
        self._release(next(iter(self._unsent)))

    def lost(self, request_ids: Iterable[int], reason: str) -> int:
        """Ends those of the requests that are still open; gives their number."""
        count = 0
        for request_id in request_ids:
            owner = self._owners.get(request_id)
            mailbox = None if owner is None else owner()
            if mailbox is not None and request_id in mailbox.open:
                self._end(mailbox, request_id, RequestRejected(reason))
                count += 1
        return count

    def _release(self, request_id: int) -> None:
        held = self._unsent.pop(request_id, None)
        if held is None:
            return
        mailbox = held[0]
        self._unsent_count[mailbox.handle.queue] -= 1
        mailbox.unsent_id = 0

    def _end(self, mailbox: Mailbox, request_id: int, error: InferenceError) -> None:
        error.request_id, error.model_id = request_id, mailbox.handle.model_id
        self._owners.pop(request_id, None)
        mailbox.deliver(request_id, error)


def result_of(outcome: Outcome | None) -> Result | None:
    """The result, where the request ended in one; None where it has not ended.

    Raises:
        InferenceError: it ended without a result.
    """
    if isinstance(outcome, InferenceError):
        raise outcome
    return outcome


def _forget(owners: dict[int, ref[Mailbox]], request_ids: Iterable[int]) -> None:
    """Nobody has the handle of these requests any more."""
    for request_id in request_ids:
        owners.pop(request_id, None)


def _name(field: str, text: str) -> str:
    # Printable first: what is no valid Unicode is not printable, and has no bytes.
    if not text.isprintable() or len(text.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{field}: expected at most {MAX_NAME_BYTES} bytes of printable text, got {text!r}")
    return text
