"""The other door of the server: how every request ends, told to its client or counted in its stead.

It decides no end: results and refusals come from elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVarTuple, Unpack

from inferential.books import Books
from inferential.dispatch.base import DispatchResult
from inferential.metrics.callbacks import check_callback
from inferential.metrics.recorder import Recorder
from inferential.observation.slots import ObservationError
from inferential.proto import PROTOCOL_VERSION
from inferential.proto.messages import write_refusal
from inferential.proto.tensors import Buffer
from inferential.scheduler.engine import Batch
from inferential.scheduler.request import ANSWERED, CLIENT_GONE, DISPATCHED, InferenceRequest, Refusal, RefusalKind
from inferential.transport.zmq_transport import ZmqTransport
from inferential.visits import Visits

logger = logging.getLogger("inferential")

RequestCallback = Callable[[InferenceRequest], None]
"""Called with a request that has just ended: `state`, `refusal`, `received_at` and `dispatched_at` tell how."""

BatchCallback = Callable[[Batch, float], None]
"""Called with a call that has ended and when, in seconds of `time.monotonic()`: its requests are answered by then,
refused, or to be tried again."""

Told = TypeVarTuple("Told")


class Callbacks(Generic[*Told]):
    """Users' functions that are told of something. Nothing they do can break the server.

    Args:
        what: they are told of, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._callbacks: list[Callable[[Unpack[Told]], None]] = []
        self._failed: set[int] = set()  # by id: not every callable can be hashed, and none goes before this does

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def register(self, callback: Callable[[Unpack[Told]], None]) -> None:
        """Adds a callback.

        Raises:
            TypeError: it is a coroutine function, whose coroutines nobody would await.
        """
        check_callback(self._what, callback)
        self._callbacks.append(callback)

    def fire(self, *told: *Told) -> None:
        """Calls them all. One that raises is logged the first time, and called on."""
        for callback in self._callbacks:
            try:
                callback(*told)
            except Exception:
                if id(callback) not in self._failed:
                    self._failed.add(id(callback))
                    logger.exception("%s callback %r failed; further failures are not logged", self._what, callback)


class Delivery:
    """Sends what requests end in.

    A client of the 1.x line is sent results alone: it would take anything else for one. What cannot be told is
    counted.
    """

    def __init__(
        self,
        transport: ZmqTransport,
        visits: Visits,
        recorder: Recorder,
        books: Books,
        callbacks: Callbacks[InferenceRequest],
    ) -> None:
        self._transport = transport
        self._visits = visits
        self._recorder = recorder
        self._books = books
        self._callbacks = callbacks

    def answer(self, results: Iterable[DispatchResult]) -> None:
        """A model gave results: they go to the clients that asked, all of them before any is written down.

        Of a request that has ended already, as shutdown ends some, nothing is told any more.
        """
        sent: list[tuple[DispatchResult, float | None]] = []
        try:
            for result in results:
                if result.request.state is DISPATCHED:
                    at = self._send(result)
                    sent.append((result, at))
        finally:
            for result, at in sent:
                request = result.request
                if at is not None:
                    self._books.answered(result, at)
                else:
                    assert request.refusal is not None
                    self._books.void(request, request.refusal)
                self._tell(request)

    def _send(self, result: DispatchResult) -> float | None:
        """Ends a request by its result; gives when that left, None where the client cannot be reached."""
        request = result.request
        if not self._post(request.identity, request.client_id, result.envelope, result.payload):
            request.refuse(Refusal(RefusalKind.REJECTED, "the client cannot be reached", CLIENT_GONE))
            return None
        request.move(ANSWERED)
        request.inference_ms = result.latency_ms
        return time.monotonic()

    def refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        """A request ends without a result."""
        request.refuse(refusal)
        self.refused(request)

    def refused(self, request: InferenceRequest) -> None:
        """A request has ended without a result."""
        refusal = request.refusal
        assert refusal is not None
        self._books.refused(request, refusal)
        if request.protocol_version >= PROTOCOL_VERSION and refusal.cause != CLIENT_GONE:
            envelope = write_refusal(
                client_id=request.client_id,
                model_id=request.model_id,
                request_id=request.request_id,
                status=refusal.kind.name,
                reason=refusal.reason,
                serve_interval_ms=request.serve_interval_ms,
            )
            self._post(request.identity, request.client_id, envelope, b"")
        self._tell(request)

    def not_believed(self, identity: bytes, error: ObservationError) -> None:
        """A message became no request."""
        name = name_of(identity)
        self._recorder.observation_error(name, "invalid")
        logger.debug("invalid observation from %r: %s", name, error.reason)
        if error.protocol_version >= PROTOCOL_VERSION and error.request_id:
            envelope = write_refusal(
                client_id=error.client_id,
                model_id=error.model_id,
                request_id=error.request_id,
                status=RefusalKind.INVALID_OBSERVATION.name,
                reason=error.reason,
            )
            self._post(identity, name, envelope, b"")

    def malformed(self, identity: bytes) -> None:
        """A message did not even have the frames of one."""
        self._recorder.observation_error(name_of(identity), "frames")

    def _tell(self, request: InferenceRequest) -> None:
        if self._callbacks:
            self._callbacks.fire(request)

    def _post(self, identity: bytes, client_id: str, envelope: bytes, payload: Buffer) -> bool:
        if self._visits.is_visitor(identity):
            visitor = self._visits.receiver(identity)
            if visitor is None:
                self._recorder.send_error(client_id, "the client has left")
                return False
            visitor(envelope, payload)
            return True
        try:
            self._transport.post(identity, envelope, payload)
        except OSError as error:
            self._recorder.send_error(client_id, error.strerror or "unknown")
            return False
        return True


def name_of(identity: bytes) -> str:
    """An identity as a metric label; all nameless and strange ones share one, so that they cannot fill the store."""
    try:
        name = identity.decode()
    except UnicodeDecodeError:
        return "?"
    return name if name and name.isprintable() else "?"
