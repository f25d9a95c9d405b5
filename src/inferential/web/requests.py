"""Streams how the server's requests end, while a client reads it: for `inferential advise`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from inferential.dispatch.base import DispatchResult
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.server import Server
from inferential.tracking.outcome_counts import UsedLate

_EVERY_S = 0.25
_AT_ONCE = 32
"""Lines that are written in one go; between two such the event loop is left to robots."""
_WAITING = 100_000
"""Requests that may wait to be sent; a reader that is slower misses those beyond."""


class RequestStream:
    """Watches a server's requests for one reader.

    Args:
        server: a running server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended: list[dict[str, Any]] = []

    async def lines(self, seconds: float) -> AsyncIterator[str]:
        """Yields a JSON object a line for each request that ends in the next seconds."""
        self._server.watch(self)
        try:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, _EVERY_S))
                ended, self._ended = self._ended, []
                for at in range(0, len(ended), _AT_ONCE):
                    yield "".join(json.dumps(one) + "\n" for one in ended[at : at + _AT_ONCE])
                    await asyncio.sleep(0)
                yield "\n"  # which says that time passes
        finally:
            self._server.unwatch(self)

    def dispatched(self, batch: Batch) -> None:
        """Does nothing: what counts is how requests end."""

    def answered(self, result: DispatchResult) -> None:
        """Does nothing: `ended` is called too."""

    def used_late(self, used: UsedLate) -> None:
        """Does nothing: what counts is how requests end."""

    def ended(self, request: InferenceRequest) -> None:
        """Notes a request that was answered or refused."""
        if len(self._ended) >= _WAITING:
            return
        refusal = request.refusal
        found: dict[str, Any] = {
            "at": request.received_at,
            "client_id": request.client_id,
            "client_type": request.client_type,
            "model_id": request.model_id,
            "end": "answered" if refusal is None else refusal.kind.name.lower(),
            "server_ms": (time.monotonic() - request.received_at) * 1e3,
            "queue_ms": 0.0,
            "inference_ms": 0.0,
            "batch_size": 0,
            "budget_ms": (request.deadline - request.received_at) * 1e3,
            "priority": request.priority,
            "urgency": request.urgency,
            "steps_remaining": request.steps_remaining,
        }
        if refusal is None:
            found["queue_ms"] = (request.dispatched_at - request.received_at) * 1e3
            found["inference_ms"], found["batch_size"] = request.inference_ms, request.rows
        self._ended.append(found)
