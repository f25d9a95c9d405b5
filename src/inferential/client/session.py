"""Sans-I/O state of a client connection: matches responses to requests and holds unsent observations.

It has no socket, no lock and no thread: `client.sync` and `client.aio` pass frames and the time to it.

A request id is 64 bits: 31 random ones drawn once per connection, then a counter. So ids grow within a connection,
and a response to an earlier connection of the same client id matches nothing.

Responses of a server of the 1.x line carry no request id. They are matched to the oldest open request of their
model, which is right as long as that server answers in order and drops nothing; that line allows nothing better.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from weakref import WeakValueDictionary, finalize, ref

from inferential.client.handle import Handle, ObservationHints, QueueChoice
from inferential.client.mailbox import Mailbox
from inferential.client.result import ClientStats, Result
from inferential.errors import (
    BatchFailed,
    InferenceError,
    InvalidObservation,
    ModelFailed,
    ModelFailing,
    ModelLoading,
    ObservationOutdated,
    RequestExpired,
    RequestRejected,
    RequestSuperseded,
    UnknownModel,
)
from inferential.proto import Cancellation, Captured, ModelResponse, Observation, Status
from inferential.proto.cache.response_reader import ResponseReader
from inferential.proto.cache.templates import ObservationWriter
from inferential.proto.fields import VARYING
from inferential.proto.messages import MAX_CANCELLED, PROTOCOL_VERSION, Content, put_metadata
from inferential.proto.tensors import Buffer, Payload

Frames = tuple[bytes, bytes, Payload]

MAX_OPEN = 1024
"""Open requests of one handle; older ones are forgotten, and their responses count as unmatched."""
MAX_UNSENT = 256
"""Observations of queue="all" that wait for a server that cannot be reached."""
MAX_NAME_BYTES = 255
"""The longest client id and type in bytes: that of a ZeroMQ identity."""

_OUTDATED = Status.OUTDATED
_OK = Status.OK  # a name of a protobuf enum is looked up by a function
_ERRORS: dict[int, type[InferenceError]] = {
    Status.REJECTED: RequestRejected,
    Status.EXPIRED: RequestExpired,
    Status.SUPERSEDED: RequestSuperseded,
    Status.UNKNOWN_MODEL: UnknownModel,
    Status.INVALID_OBSERVATION: InvalidObservation,
    Status.MODEL_FAILED: ModelFailed,
    Status.MODEL_LOADING: ModelLoading,
    Status.MODEL_FAILING: ModelFailing,
    Status.BATCH_FAILED: BatchFailed,
}


class DatedEnvelope(bytes):
    """The envelope of an observation that says how old it is."""

    def held(self, held_ms: float) -> bytes:
        """Returns the envelope once it was held back for so long: messages of protobuf are merged by appending."""
        return bytes(self) + Observation(captured=Captured(held_ms=held_ms)).SerializeToString()


@dataclass(frozen=True, slots=True)
class SessionSizes:
    """What a session holds in memory."""

    open_requests: int
    """Requests whose response would be delivered."""
    handles: int
    """Mailboxes whose handle is in use, or that have an unsent observation."""
    unsent: int
    """Observations that wait to be sent."""


class Session:
    """The handles of one connection, their open requests, and the observations that are not sent yet."""

    def __init__(self, client_id: str | int, client_type: str) -> None:
        # 48 random bits: a fleet of a million unnamed robots meets a collision once in centuries.
        self.client_id: str = _name("client_id", str(client_id)) or f"client-{secrets.token_hex(6)}"
        self.client_type: str = _name("client_type", client_type)
        self.stats: ClientStats = ClientStats()
        self._responses = ResponseReader(self.stats.response_cache)
        self._ids = itertools.count((secrets.randbits(31) | 1) << 32)
        # A mailbox lives as long as its handle, which alone can read it, or as an observation that is not sent yet.
        self._owners: dict[int, ref[Mailbox]] = {}
        self._mailboxes: dict[str, WeakValueDictionary[int, Mailbox]] = {}
        self._serials = itertools.count()
        self._episodes: dict[str, int] = {}  # by model; a model that never began a second one has no entry
        self._unsent: OrderedDict[int, tuple[Mailbox, Frames]] = OrderedDict()
        self._unsent_count: dict[QueueChoice, int] = {"latest": 0, "all": 0}

    def sizes(self) -> SessionSizes:
        """Returns the sizes of what the session holds; all are bounded while its handles are."""
        handles = sum(len(of_model) for of_model in self._mailboxes.values())
        return SessionSizes(len(self._owners), handles, len(self._unsent))

    def mailbox(self, handle: Handle) -> Mailbox:
        """Returns a mailbox for a new handle."""
        mailbox = Mailbox(handle, self._writer(handle), self.stats)
        finalize(mailbox, _forget, self._owners, mailbox.open).atexit = False
        self._mailboxes.setdefault(handle.model_id, WeakValueDictionary())[next(self._serials)] = mailbox
        return mailbox

    def _writer(self, handle: Handle) -> ObservationWriter:
        episode = self._episodes.get(handle.model_id, 0)
        constant = handle.constant_fields(self.client_id, self.client_type)._replace(episode=episode)
        return ObservationWriter(constant, self.stats.template_cache)

    def reset(self, model_id: str) -> None:
        """Begins a new episode with a model: outcomes of the requests that are open are dropped, read or not.

        Requests whose outcome was to be kept end in RequestSuperseded. The server learns of it with the next
        observation.
        """
        self._episodes[model_id] = self._episodes.get(model_id, 0) + 1
        for mailbox in self._of_model(model_id):
            for request_id in mailbox.reset():
                self._release(request_id)
                self._owners.pop(request_id, None)
            mailbox.writer = self._writer(mailbox.handle)

    def observe(
        self,
        mailbox: Mailbox,
        content: Content,
        hints: ObservationHints,
        now: float,
        timestamp_ns: int,
        keep: bool = False,
    ) -> tuple[int, Frames]:
        """Builds an observation and opens its request.

        Args:
            mailbox: of the handle.
            content: from `Handle.content`; compressing takes milliseconds, and needs no session.
            hints: the varying fields that the user gave, by the arguments' names.
            now: seconds of `time.monotonic()`.
            timestamp_ns: nanoseconds of the wall clock.
            keep: the outcome is for `Mailbox.take_kept` alone.

        Returns:
            The request id, and the frames to send.

        Raises:
            TypeError, ValueError: a dtype that the wire does not have, or a hint of the wrong type or out of range.
        """
        tensors, metadata, signature = content
        request_id = next(self._ids)
        try:
            message = Observation(timestamp_ns=timestamp_ns, request_id=request_id, **hints)
            if hints.get("priority") is None:
                message.priority = mailbox.handle.priority
        except (TypeError, ValueError, OverflowError) as error:
            raise _hint_error(hints, error) from error
        if mailbox.applied is not None:
            applied = message.applied
            applied.request_id, applied.age_ms, applied.unread_ms = mailbox.applied
            mailbox.applied = None
        if metadata:
            put_metadata(message.metadata, metadata)
        envelope, payload = mailbox.writer.write(message, timestamp_ns, tensors, signature)
        self._owners[request_id] = mailbox.reference
        mailbox.opened(request_id, now, keep=keep)
        if len(mailbox.open) > MAX_OPEN:
            self._owners.pop(mailbox.forget_oldest(), None)
        self.stats.observed += 1
        return request_id, (b"", envelope, payload)

    def receive(self, envelope: Buffer, payload: Buffer, now: float) -> None:
        """Reads one response and delivers it to the mailbox of its request."""
        try:
            response = self._responses.read(envelope, payload)
        except ValueError:
            self.stats.unmatched += 1
            return
        message = response.message
        request_id = message.request_id or self._oldest(response.model_id)
        if message.status == _OUTDATED:
            self._note_outdated(request_id, message, response.model_id)
            return
        owner = self._owners.pop(request_id, None)
        mailbox = owner() if owner is not None else None if request_id else self._newest_handle(response.model_id)
        if mailbox is None:
            self.stats.unmatched += 1
            return
        mailbox.serve_interval_ms = message.serve_interval_ms
        if message.status != _OK:
            kind = _ERRORS.get(message.status, InferenceError)
            error = kind(message.reason, request_id=request_id, model_id=response.model_id, cause=message.cause)
            mailbox.deliver(request_id, error)
            return
        observed_at = mailbox.open.get(request_id)
        age_ms = math.nan if observed_at is None else (now - observed_at) * 1e3
        control = mailbox.handle.rules.control
        if control is not None:
            control.answered(age_ms)
        mailbox.deliver(request_id, Result(response, request_id, age_ms, now, mailbox.reference))

    def _note_outdated(self, request_id: int, message: ModelResponse, model_id: str) -> None:
        """Delivers that the server asks for a newer observation; the request stays open."""
        owner = self._owners.get(request_id)
        mailbox = None if owner is None else owner()
        if mailbox is None:
            self.stats.unmatched += 1
        else:
            notice = ObservationOutdated(message.reason, request_id=request_id, model_id=model_id)
            notice.turn_in_ms = (
                message.turn_in_ms if math.isfinite(message.turn_in_ms) and message.HasField("turn_in_ms") else None
            )
            mailbox.outdated(notice)

    def _oldest(self, model_id: str) -> int:
        """Returns the oldest open request of a model that was sent; 0 where there is none."""
        firsts = [next(iter(mailbox.open)) for mailbox in self._of_model(model_id) if mailbox.open]
        return min((first for first in firsts if first not in self._unsent), default=0)

    def _newest_handle(self, model_id: str) -> Mailbox | None:
        mailboxes = self._of_model(model_id)
        return mailboxes[-1] if mailboxes else None

    def _of_model(self, model_id: str) -> list[Mailbox]:
        known = self._mailboxes.get(model_id)
        return [] if known is None else list(known.values())

    def abandon(self, mailbox: Mailbox, request_id: int) -> list[int]:
        """Forgets a request; if it is not sent yet, it is not sent. Returns its id if the server may have it."""
        sent = request_id in self._owners and request_id not in self._unsent
        self._owners.pop(request_id, None)
        self._release(request_id)
        mailbox.abandon(request_id)
        return [request_id] if sent else []

    def cancel(self, mailbox: Mailbox) -> tuple[int, list[int]]:
        """Ends all open requests of a handle; those that are not sent yet are not sent.

        A request that was opened with `keep` ends in RequestRejected; of the others nothing is heard.

        Returns:
            The number of requests, and the ids of those that the server may have.
        """
        ended = list(mailbox.open)
        sent = [request_id for request_id in ended if request_id not in self._unsent]
        for request_id in ended:
            self._release(request_id)
            self._owners.pop(request_id, None)
            mailbox.cancel(request_id)
        self.stats.cancelled += len(ended)
        return len(ended), sent

    def cancellations(self, request_ids: Sequence[int], *, awaited: bool = False) -> Iterator[Frames]:
        """Yields the frames of messages that take requests back, or ask for those `awaited` of a former connection.

        They name no model: a server that does not know them takes them for broken observations and runs nothing.
        """
        for at in range(0, len(request_ids), MAX_CANCELLED):
            ids: dict[str, Any] = {"awaited_ids" if awaited else "request_ids": request_ids[at : at + MAX_CANCELLED]}
            message = Cancellation(protocol_version=PROTOCOL_VERSION, **ids)
            message.client.id = self.client_id
            yield b"", message.SerializeToString(), b""

    # While the server cannot be reached, the newest observation of each "latest" handle is held, and of all "all"
    # handles together up to MAX_UNSENT, in order.

    def has_unsent(self) -> bool:
        """Returns whether an observation is held."""
        return bool(self._unsent)

    def must_wait(self, mailbox: Mailbox) -> bool:
        """Returns whether others are held that an observation of this handle must not overtake."""
        return bool(self._unsent if mailbox.handle.queue == "latest" else self._unsent_count["all"])

    def hold(self, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        """Holds an observation that could not be sent; returns whether another request ended because of it."""
        queue = mailbox.handle.queue
        ended, behind = True, []
        if queue == "latest" and mailbox.unsent_id:
            replaced = mailbox.unsent_id
            # It takes that one's place: behind all others, who observes most often would never have its turn.
            behind = list(takewhile(replaced.__ne__, reversed(self._unsent)))
            self._release(replaced)
            self.stats.replaced_unsent += 1
            self._end(
                mailbox, replaced, RequestSuperseded("a newer observation was made before this one could be sent")
            )
        elif self._unsent_count[queue] >= MAX_UNSENT:
            # So many "latest" handles exist only where each observation gets a handle of its own.
            dropped = next(key for key, (owner, _) in self._unsent.items() if owner.handle.queue == queue)
            owner = self._unsent[dropped][0]
            self._release(dropped)
            self.stats.dropped_unsent += 1
            reason = f"{MAX_UNSENT} newer observations wait for a server that cannot be reached or is too slow"
            self._end(owner, dropped, RequestRejected(reason))
        else:
            ended = False
        if Observation.FromString(frames[1]).captured.age_ms:
            frames = frames[0], DatedEnvelope(frames[1]), frames[2]
        self._unsent[request_id] = (mailbox, frames)
        for other in reversed(behind):
            self._unsent.move_to_end(other)
        self._unsent_count[queue] += 1
        if queue == "latest":
            mailbox.unsent_id = request_id
        return ended

    def next_unsent(self, now: float, *, latest: bool = True) -> tuple[int, Frames] | None:
        """Returns the id and frames of the observation to send next at `now`; call `sent` once it is.

        Without `latest` those of "latest" handles go on waiting.
        """
        for request_id, (mailbox, frames) in self._unsent.items():
            if latest or mailbox.handle.queue == "all":
                if isinstance(frames[1], DatedEnvelope):
                    held_ms = max(now - mailbox.open.get(request_id, now), 0.0) * 1e3
                    frames = frames[0], frames[1].held(held_ms), frames[2]
                return request_id, frames
        return None

    def sent(self, request_id: int) -> None:
        """Releases an observation that `next_unsent` returned."""
        self._release(request_id)

    def lost_all(self, reason: str) -> int:
        """Ends all open requests that were sent; returns their number."""
        return self.lost(self.sent_ids(), reason)

    def sent_ids(self) -> list[int]:
        """Returns the ids of the open requests that were sent."""
        return [request_id for request_id in self._owners if request_id not in self._unsent]

    def lost(self, request_ids: Iterable[int], reason: str) -> int:
        """Ends those of the requests that are still open; returns their number."""
        count = 0
        for request_id in request_ids:
            owner = self._owners.get(request_id)
            mailbox = None if owner is None else owner()
            if mailbox is not None and request_id in mailbox.open:
                self._end(mailbox, request_id, RequestRejected(reason, cause="not_arrived"))
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


def _hint_error(hints: ObservationHints, error: Exception) -> Exception:
    """Returns the error that names the hint which a message cannot hold."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    for row in VARYING.values():
        argument = row.argument
        if argument is not None and not _holds(argument.name, hints.get(argument.name)):
            return kind(f"{argument.name}: expected {argument.expected}, got {hints[argument.name]!r}")
    return error


def _holds(field: str, value: Any) -> bool:
    try:
        Observation(**{field: value})
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _forget(owners: dict[int, ref[Mailbox]], request_ids: Iterable[int]) -> None:
    """Forgets the requests of a handle that no longer exists."""
    for request_id in request_ids:
        owners.pop(request_id, None)


def _name(field: str, text: str) -> str:
    # Printable first: invalid Unicode is not printable, and cannot be encoded.
    if not text.isprintable() or len(text.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{field}: expected at most {MAX_NAME_BYTES} bytes of printable text, got {text!r}")
    return text
