"""Ends requests: sends each result or refusal to its client, or counts it where it cannot be sent."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

from google.protobuf.message import DecodeError

from inferential.dispatch.base import DispatchResult
from inferential.metrics.recorder import Recorder
from inferential.notices import LineQuota, Notices
from inferential.observation.slots import ObservationError
from inferential.proto import PROTOCOL_VERSION
from inferential.proto.cache.templates import request_id_field
from inferential.proto.fields import SenderMessage
from inferential.proto.messages import write_refusal, write_refusals
from inferential.proto.tensors import Buffer
from inferential.scheduler.request import (
    ANSWERED,
    CANCELLED,
    CLIENT_GONE,
    DISPATCHED,
    SUPERSEDED,
    InferenceRequest,
    Refusal,
    RefusalKind,
)
from inferential.server.accounting import Accounting
from inferential.server.callbacks import Callbacks
from inferential.server.ingress import Overtaken
from inferential.server.inprocess import InProcessClients
from inferential.transport.messages import Received
from inferential.transport.returns import KeptAnswer
from inferential.transport.zmq_transport import GONE, ZmqTransport

logger: logging.Logger = logging.getLogger("inferential")

_MAX_REASON = 2048
_MAX_GOINGS = 2000  # lines a minute
_INVALID = "invalid"
_NOT_ARRIVED = "the connection was lost before it arrived, or with its answer on the way"
_SUPERSEDED = SUPERSEDED.kind.name
_UNREAD = frozenset({CLIENT_GONE, CANCELLED.cause})  # causes of refusals that have no reader


class Egress:
    """Sends what requests end in, and calls the request callbacks.

    A client of the 1.x line is sent results only: it would take any other message for a result.
    """

    def __init__(
        self,
        transport: ZmqTransport,
        inprocess: InProcessClients,
        recorder: Recorder,
        accounting: Accounting,
        callbacks: Callbacks[InferenceRequest],
    ) -> None:
        self._transport = transport
        self._inprocess = inprocess
        self._recorder = recorder
        self._accounting = accounting
        self._callbacks = callbacks
        self._notices = Notices(logger)
        self._goings = LineQuota(logger, _MAX_GOINGS)
        transport.on_lost, transport.open_ids = self._on_lost, self._open_ids
        self.on_result: Callable[[DispatchResult], None] | None = None
        """Called with each result that was sent, once it is accounted for."""
        self.on_end: Callable[[InferenceRequest], None] | None = None
        """Called with each request that has ended."""

    def answer(self, results: Iterable[DispatchResult]) -> None:
        """Sends a call's results, all of them before the first is accounted for.

        A result whose request has ended already, as during shutdown, is dropped.
        """
        tried: list[DispatchResult] = []
        all_sent = True
        try:
            for result in results:
                if result.request.state is DISPATCHED:
                    all_sent = self._send_result(result) and all_sent
                    tried.append(result)
        finally:
            sent = tried if all_sent else [result for result in tried if result.request.state is ANSWERED]
            self._accounting.answered(sent)
            if not all_sent or self.on_result is not None or self.on_end is not None or self._callbacks:
                self._tell_ended(tried)

    def _tell_ended(self, results: Iterable[DispatchResult]) -> None:
        """Calls what is to be called with results that were sent, or could not be, and with their requests."""
        for result in results:
            request = result.request
            if request.refusal is not None:
                self._accounting.invalidated(request)
            elif self.on_result is not None:
                self.on_result(result)
            self._notify(request)

    def _send_result(self, result: DispatchResult) -> bool:
        """Sends a result and ends its request; False: it is refused, as its client is unreachable."""
        request = result.request
        if self._transport.backlogged and request.takes_latest and request.connection in self._transport.backlogged:
            posted = self._post_newest(request, result.envelope, result.payload)
        else:
            posted = self._post(request, result.envelope, result.payload)
        if not posted:
            request.refuse(Refusal(RefusalKind.REJECTED, "the client cannot be reached", CLIENT_GONE))
            return False
        request.move(ANSWERED)
        request.inference_ms = result.latency_ms
        request.sent_at = time.monotonic()
        return True

    def _post_newest(self, request: InferenceRequest, envelope: bytes, payload: Buffer) -> bool:
        """Sends a result over a connection that has more to send than it takes; a newer one replaces an older."""
        if request.protocol_version < PROTOCOL_VERSION:  # its client knows no answer but a result
            return self._post(request, envelope, payload)
        try:
            old = self._transport.post_newest(request, envelope, payload)
        except OSError as error:
            self._recorder.send_error(request.client_id, "result", error.strerror or "unknown")
            return False
        if old is not None:
            self._recorder.replaced(old)
            refusal = write_refusal(
                client_id=old.client_id,
                model_id=old.model_id,
                request_id=old.request_id,
                status=SUPERSEDED.kind.name,
                reason="a newer result was there before this one could be sent: the client or its link is too slow",
                cause=SUPERSEDED.cause,
                serve_interval_ms=old.serve_interval_ms,
            )
            self._post_refusal(old.connection, old.client_id, refusal)
        return True

    def refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        """Ends a request without a result, and sends the refusal."""
        request.refuse(refusal)
        self.send_refusal(request)

    def send_refusal(self, request: InferenceRequest) -> None:
        """Sends the refusal of a request that has been refused already, and accounts for it."""
        refusal = request.refusal
        assert refusal is not None
        self._accounting.refused(request, refusal)
        if not refusal.logged and refusal.kind is not RefusalKind.SUPERSEDED and refusal.cause not in _UNREAD:
            made_up = refusal.kind is RefusalKind.UNKNOWN_MODEL  # as many names as a client likes
            key = (request.client_id, "" if made_up else request.model_id, refusal.cause)
            text = "client %s: a request for model %s was refused (%s): %s"
            reason = refusal.reason.removeprefix(f"{refusal.cause}: ")
            self._notices.say(key, text, request.client_id, request.model_id, refusal.cause, reason)
        if request.protocol_version >= PROTOCOL_VERSION and refusal.cause not in _UNREAD:
            envelope = write_refusal(
                client_id=request.client_id,
                model_id=request.model_id,
                request_id=request.request_id,
                status=refusal.kind.name,
                reason=_short(refusal.reason),
                cause=refusal.cause,
                serve_interval_ms=request.serve_interval_ms,
            )
            late = refusal.kind is RefusalKind.SUPERSEDED  # what took its place is answered soon
            self._post_refusal(request.connection, request.client_id, envelope, late=late)
        self._notify(request)

    def count_handed_over(self, request: InferenceRequest) -> None:
        """Counts a request that another version is given, as the call that it is in takes too long."""
        self._recorder.handed_over(request)

    def drop(self, results: Sequence[DispatchResult]) -> None:
        """Counts the results of a call whose requests another version was given, and sends none."""
        for result in results:
            if result.refusal is None:
                self._recorder.dropped(result.request.model_id)

    def ask_anew(self, request: InferenceRequest) -> None:
        """Asks the robot of a request that waits for a newer observation."""
        self._recorder.outdated(request)
        turn_in_s = request.turn_at - time.monotonic()
        envelope = write_refusal(
            client_id=request.client_id,
            model_id=request.model_id,
            request_id=request.request_id,
            status="OUTDATED",
            reason="it waits, and few actions of its chunk would be left to play: send a newer observation",
            serve_interval_ms=request.serve_interval_ms,
            turn_in_ms=None if math.isnan(turn_in_s) else max(turn_in_s, 0.0) * 1e3,
        )
        self._post_refusal(request.connection, request.client_id, envelope)

    def refuse_overtaken(self, overtaken: Overtaken, connection: int, now: float) -> None:
        """Accounts for observations that were superseded unread at `now`, and sends their refusals."""
        interval_ms = self._accounting.overtaken(overtaken, now)
        if overtaken.protocol_version >= PROTOCOL_VERSION:
            refusals = write_refusals(
                client_id=overtaken.client_id,
                model_id=overtaken.model_id,
                request_ids=overtaken.request_ids,
                status=_SUPERSEDED,
                reason=SUPERSEDED.reason,
                cause=SUPERSEDED.cause,
                serve_interval_ms=interval_ms,
            )
            self._post_refusal(connection, overtaken.client_id, *refusals, late=True)

    @property
    def watched(self) -> bool:
        """Whether request callbacks are registered, which are called with every request as a whole."""
        return bool(self._callbacks)

    def reject_malformed(self, identity: bytes, connection: int, error: ObservationError) -> None:
        """Counts a message that makes no valid request, and sends the error if its sender can read it."""
        name = label_of(identity)
        self._recorder.observation_error(name, _INVALID)
        self._notices.say((name, _INVALID), "client %s: an observation is invalid: %s", name, error.reason)
        if error.protocol_version >= PROTOCOL_VERSION and error.request_id:
            envelope = write_refusal(
                client_id=error.client_id,
                model_id=error.model_id,
                request_id=error.request_id,
                status=RefusalKind.INVALID_OBSERVATION.name,
                reason=error.reason,
                cause=_INVALID,
            )
            self._post_refusal(connection, name, envelope)

    def count_wrong_frames(self, identity: bytes, reason: str) -> None:
        """Counts a message that does not consist of the three frames of an observation."""
        name = label_of(identity)
        self._recorder.observation_error(name, "frames")
        self._notices.say((name, "frames"), "client %s: a message is no observation: %s", name, reason)

    def reaches(self, connection: int) -> bool:
        """Returns whether the connection with a number stands, or another one that its robot has made since."""
        if connection < 0:
            return self._inprocess.receiver(connection) is not None
        return self._transport.objection(self._transport.place(connection)) != GONE

    def follow(self, request: InferenceRequest) -> bool:
        """Has a request that is to wait again belong to the connection that its robot has now; False: it has none."""
        request.connection = self._transport.place(request.connection)
        return self.reaches(request.connection)

    def keep_waiting(self, request: InferenceRequest) -> None:
        """Keeps the message of a request whose connection has ended, if its robot may come back and ask it again."""
        if self._transport.is_away(request.connection):
            message = (request.identity, request.envelope, request.payload, request.received_at, request.connection)
            self._transport.keep_waiting(message)

    def say_gone(self, client_id: str, identity: bytes) -> None:
        """Logs that a client is gone, and whether its connection is too."""
        stands = self._inprocess.connected(identity)
        if self._transport.has_client(identity) if stands is None else stands:
            why = "nothing was received within the time-out"
        else:
            why = "it has left"
        self._goings.say("client %s disconnected: %s", client_id, why)

    def has_unread(self, identity: bytes) -> bool:
        """Returns whether a connected robot has sent, or may have, what was not looked at yet."""
        return self._transport.is_behind(identity)

    def _notify(self, request: InferenceRequest) -> None:
        if self.on_end is not None:
            self.on_end(request)
        if self._callbacks:
            self._callbacks.fire(request)

    def _post(self, request: InferenceRequest, envelope: bytes, payload: Buffer) -> bool:
        """Sends a result without waiting; counts and returns False if that is not possible."""
        connection, client_id = request.connection, request.client_id
        if connection < 0:
            return self._hand_over(connection, client_id, "result", envelope, payload)
        try:
            self._transport.post(connection, envelope, payload)
        except OSError as error:
            kept = KeptAnswer(client_id, request.request_id, envelope, payload)
            if error.errno == errno.EHOSTUNREACH and self._transport.keep_answer(connection, kept):
                return True
            self._recorder.send_error(client_id, "result", error.strerror or "unknown")
            return False
        return True

    def look_again(self, requests: Iterable[InferenceRequest]) -> None:
        """Notices which robots have given up their connections meanwhile; before answers to calls that took long."""
        self._transport.find_ended([request.connection for request in requests])

    def _on_lost(self, answer: KeptAnswer) -> None:
        self._recorder.send_error(answer.client_id, "kept result", "the client did not come back")

    def _open_ids(self, connection: int) -> set[int]:
        """Returns the requests that wait or run of a connection, and of former ones of its robot."""
        place = self._transport.place
        return {one.request_id for one in self._accounting.engine.requests() if place(one.connection) == connection}

    def note_inherited(self, message: Received) -> Received:
        """Returns a message that came by a former connection of its robot, once it is noted that it ends by itself."""
        known = self._transport.spoken_for.get(message[4])
        if known is not None:
            with contextlib.suppress(DecodeError):  # it is no observation, and refused as that
                known.add(SenderMessage.FromString(bytes(message[1])).request_id)
        return message

    def tell_rest(self, connection: int, client_id: str, awaited: Sequence[int]) -> None:
        """Refuses those requests of a robot's former connections that this server does not have.

        Args:
            connection: the robot's now.
            client_id: the robot's.
            awaited: the requests that it waits for.
        """
        late = self._transport.spoken_for.get(connection, set())
        open_ids = self._open_ids(connection)
        missing = [request_id for request_id in awaited if request_id not in open_ids and request_id not in late]
        if missing:
            # The connection before this one may have asked too, and what it sent is received as if this one had.
            self._transport.spoken_for[connection] = late.intersection(awaited).union(missing)
            refusals = write_refusals(
                client_id=client_id,
                model_id="",
                request_ids=[request_id_field(one) for one in missing],
                status=RefusalKind.REJECTED.name,
                reason=_NOT_ARRIVED,
                cause="not_arrived",
            )
            self._post_refusal(connection, client_id, *refusals)

    def _post_refusal(self, connection: int, client_id: str, *envelopes: bytes, late: bool = False) -> None:
        """Sends refusals at the end of this turn, with the others for the connection; counts those that cannot be.

        Args:
            connection: its number.
            client_id: whose requests they are of.
            envelopes: of the refusals.
            late: they may go with the next answer, if there is one within moments.
        """
        if connection < 0:
            for envelope in envelopes:
                self._hand_over(connection, client_id, "refusal", envelope, b"")
            return
        try:
            self._transport.cork(connection, envelopes, late=late)
        except OSError as error:
            for _ in envelopes:
                self._recorder.send_error(client_id, "refusal", error.strerror or "unknown")

    def _hand_over(self, connection: int, client_id: str, kind: str, envelope: bytes, payload: Buffer) -> bool:
        receive = self._inprocess.receiver(connection)
        if receive is None:
            self._recorder.send_error(client_id, kind, "the client has disconnected")
            return False
        receive(envelope, payload)
        return True


def _short(reason: str) -> str:
    """Returns what a client is sent of a reason: a model's message may have megabytes."""
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}... ({len(reason)} characters)"


def label_of(identity: bytes) -> str:
    """Returns an identity as a metric label.

    Generated and unprintable identities share the label "?", so that they cannot fill the metrics.
    """
    try:
        name = identity.decode()
    except UnicodeDecodeError:
        return "?"
    return name if name and name.isprintable() else "?"
