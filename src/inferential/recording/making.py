"""Makes an entry of every request of a running server, for what records or shows requests.

A payload is copied when its answer has gone out, wherever it is certain to be then as the robot sent it.
"""

from __future__ import annotations

import itertools
import secrets
import time
from abc import abstractmethod
from typing import Any

from inferential.config.services import ServiceConfig
from inferential.dispatch.base import DispatchResult
from inferential.proto.tensors import Buffer
from inferential.recording.entries import Entry
from inferential.replica.shared import Place
from inferential.scheduler.request import InferenceRequest, RefusalKind
from inferential.scheduler.running import Batch
from inferential.server import Server
from inferential.server.service import Service
from inferential.tracking.outcome_counts import UsedLate


class EntryMaker(Service):
    """Makes entries while it watches its server, on the event loop; copies only what is wanted."""

    def __init__(self, server: Server, config: ServiceConfig) -> None:
        super().__init__(server, config)
        # Of running requests' payloads, as they were sent; None where those stay as they are.
        self._copies: dict[InferenceRequest, bytes | Place | None] = {}
        self._numbers = itertools.count(1)
        self._run = secrets.token_hex(4)  # as the numbers of connections begin anew with each server

    @abstractmethod
    def _wants(self, request: InferenceRequest) -> bool:
        """Returns whether this robot's requests to this model are wanted now."""

    @abstractmethod
    def _ends(self, request: InferenceRequest, refusal: RefusalKind | None, *, is_late: bool) -> bool:
        """Returns whether a request with this end is wanted, or may be once more is known; None: an answer."""

    @abstractmethod
    def _take(self, entry: Entry, now: float) -> None:
        """Takes an entry over."""

    def _copy(self, payload: Buffer) -> bytes | Place:
        """Copies a payload, where it may also be to memory of its own."""
        return bytes(payload)

    def _free(self, copy: bytes | Place | None) -> None:
        """Lets go of a copy that is not wanted after all."""

    def dispatched(self, batch: Batch) -> None:
        """Sees to it that payloads are there as they were sent: a model's arrays are its own, and it may write to them.

        In a batch, and in another process, it has copies of them anyway, and where they are read-only. Else one is made
        for the entry, and none for the model.
        """
        requests = batch.requests
        stay = len(requests) > 1 or self._server.dispatcher.begins_elsewhere(requests)
        for request in requests:
            if request in self._copies or not self._wants(request):
                continue
            if stay:
                request.payload = memoryview(request.payload).toreadonly()
            self._copies[request] = None if stay else self._copy(request.payload)

    def answered(self, result: DispatchResult) -> None:
        """Makes the entry of an answer."""
        request = result.request
        if request not in self._copies:
            return
        copy = self._copies.pop(request)
        now = time.monotonic()
        late = now > request.deadline
        if not self._ends(request, None, is_late=late):
            self._free(copy)
            return
        answer = {"end": "answered", "late": late}
        copy = self._copy(request.payload) if copy is None else copy
        self._make(request, answer, copy, bytes(request.envelope), result.envelope, bytes(result.payload), now)

    def ended(self, request: InferenceRequest) -> None:
        """Makes the entry of a request that got no result."""
        if request.refusal is None:
            return
        copy = self._copies.pop(request, None)
        refusal = request.refusal
        late = refusal.kind is RefusalKind.EXPIRED
        if not (self._wants(request) and self._ends(request, refusal.kind, is_late=late)):
            self._free(copy)
            return
        answer = {"end": refusal.kind.name.lower(), "reason": refusal.reason, "late": late}
        # Of those that a newer one replaced it is enough to know when they came.
        envelope = None if refusal.kind is RefusalKind.SUPERSEDED else bytes(request.envelope)
        if copy is None:
            copy = b"" if envelope is None else self._copy(request.payload)
        self._make(request, answer, copy, envelope, None, b"", time.monotonic())

    def used_late(self, used: UsedLate) -> None:
        """Does nothing, for what shows requests when they end."""

    def _make(
        self,
        request: InferenceRequest,
        answer: dict[str, Any],
        copy: bytes | Place,
        envelope: Any,
        result_envelope: bytes | None,
        result_payload: Any,
        now: float,
    ) -> None:
        now_ns = time.monotonic_ns()
        steps = request.steps_remaining
        answer["server_ms"] = (now - request.received_at) * 1e3
        answer["budget_ms"] = min((request.deadline - request.received_at) * 1e3, 1e12)
        entry = Entry(
            now_ns - int((now - request.received_at) * 1e9),
            now_ns,
            time.time_ns() - now_ns,
            next(self._numbers) & 0xFFFF_FFFF,
            {
                "client_id": request.client_id,
                "client_type": self._server.client_type(request.client_id),
                "model_id": request.model_id,
                "session": f"{self._run}-{request.connection}-{request.episode}",
                "request_id": request.request_id,
            },
            {
                "steps_remaining": -1 if steps is None else steps,
                "priority": request.priority,
                "urgency": request.urgency,
            },
            answer,
            envelope,
            b"" if isinstance(copy, Place) else copy,
            result_envelope,
            result_payload,
            copy if isinstance(copy, Place) else None,
        )
        self._take(entry, now)
