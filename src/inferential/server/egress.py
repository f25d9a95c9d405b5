"""Ends requests: sends each result or refusal to its client, or counts it where it cannot be sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from inferential.dispatch.base import DispatchResult
from inferential.metrics.recorder import Recorder
from inferential.observation.slots import ObservationError
from inferential.proto import PROTOCOL_VERSION
from inferential.proto.messages import write_refusal
from inferential.proto.tensors import Buffer
from inferential.scheduler.request import ANSWERED, CLIENT_GONE, DISPATCHED, InferenceRequest, Refusal, RefusalKind
from inferential.server.accounting import Accounting
from inferential.server.callbacks import Callbacks
from inferential.server.inprocess import InProcessClients
from inferential.transport.zmq_transport import ZmqTransport

logger: logging.Logger = logging.getLogger("inferential")


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

    def answer(self, results: Iterable[DispatchResult]) -> None:
        """Sends a call's results, all of them before the first is accounted for.

        A result whose request has ended already, as during shutdown, is dropped.
        """
        sent: list[tuple[DispatchResult, float | None]] = []
        try:
            for result in results:
                if result.request.state is DISPATCHED:
                    at = self._send_result(result)
                    sent.append((result, at))
        finally:
            for result, at in sent:
                request = result.request
                if at is not None:
                    self._accounting.answered(result, at)
                else:
                    assert request.refusal is not None
                    self._accounting.invalidated(request, request.refusal)
                self._notify(request)

    def _send_result(self, result: DispatchResult) -> float | None:
        """Sends a result and ends its request; returns when it was sent, None if the client is unreachable."""
        request = result.request
        if not self._post(request.identity, request.client_id, result.envelope, result.payload):
            request.refuse(Refusal(RefusalKind.REJECTED, "the client cannot be reached", CLIENT_GONE))
            return None
        request.move(ANSWERED)
        request.inference_ms = result.latency_ms
        return time.monotonic()

    def refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        """Ends a request without a result, and sends the refusal."""
        request.refuse(refusal)
        self.send_refusal(request)

    def send_refusal(self, request: InferenceRequest) -> None:
        """Sends the refusal of a request that has been refused already, and accounts for it."""
        refusal = request.refusal
        assert refusal is not None
        self._accounting.refused(request, refusal)
        # A client in this process that was silent for long is still there, and waits.
        gone = refusal.cause == CLIENT_GONE and self._inprocess.receiver(request.identity) is None
        if request.protocol_version >= PROTOCOL_VERSION and not gone:
            envelope = write_refusal(
                client_id=request.client_id,
                model_id=request.model_id,
                request_id=request.request_id,
                status=refusal.kind.name,
                reason=refusal.reason,
                serve_interval_ms=request.serve_interval_ms,
            )
            self._post(request.identity, request.client_id, envelope, b"")
        self._notify(request)

    def reject_malformed(self, identity: bytes, error: ObservationError) -> None:
        """Counts a message that makes no valid request, and sends the error if its sender can read it."""
        name = label_of(identity)
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

    def count_wrong_frames(self, identity: bytes) -> None:
        """Counts a message that does not consist of the three frames of an observation."""
        self._recorder.observation_error(label_of(identity), "frames")

    def _notify(self, request: InferenceRequest) -> None:
        if self._callbacks:
            self._callbacks.fire(request)

    def _post(self, identity: bytes, client_id: str, envelope: bytes, payload: Buffer) -> bool:
        """Sends frames without waiting; counts and returns False if that is not possible."""
        if self._inprocess.owns(identity):
            receive = self._inprocess.receiver(identity)
            if receive is None:
                self._recorder.send_error(client_id, "the client has disconnected")
                return False
            receive(envelope, payload)
            return True
        try:
            self._transport.post(identity, envelope, payload)
        except OSError as error:
            self._recorder.send_error(client_id, error.strerror or "unknown")
            return False
        return True


def label_of(identity: bytes) -> str:
    """Returns an identity as a metric label.

    Generated and unprintable identities share the label "?", so that they cannot fill the metrics.
    """
    try:
        name = identity.decode()
    except UnicodeDecodeError:
        return "?"
    return name if name and name.isprintable() else "?"
