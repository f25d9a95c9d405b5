"""Calls that no robot waits for: one probe of a model that fails, and copies of observations for a shadow.

They go past the engine: at most one for a pool, and only where the caller has found room.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from inferential.dispatch.base import Dispatcher, DispatchResult
from inferential.replica.values import own
from inferential.scheduler.engine import Engine
from inferential.scheduler.request import InferenceRequest

logger: logging.Logger = logging.getLogger("inferential.models")

SHADOW_SHARE = 0.005
"""Share of the time that calls in the shadow, and those of robots beside them, take at most.

Where both have one accelerator or one processor they slow each other: so few of the robots' calls are met by one that
their 99th percentile stays what it is.
"""
LONGEST_PAUSE_S = 60.0
"""Between two calls in the shadow, however slow they are."""
ROOM = 2.0
"""Times what a call in the shadow takes, no robot must be expected to ask, for one to begin."""
PATIENCE_S = 10.0
"""After so long one begins without, where robots are so many that always one is expected."""
_REMEMBERED = 8
PROBE = "inferential-probe"
"""Client id of a probe, for models that ask."""


class Probes:
    """Runs them as tasks.

    Args:
        dispatcher: the backend.
        engine: which pools are idle.
        on_probed: called with a pool, and why it failed or None.
        on_compared: called with the pool in the shadow, a result that a robot got, and the shadow's for the same.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        engine: Engine,
        on_probed: Callable[[str, str | None], None],
        on_compared: Callable[[str, DispatchResult, DispatchResult], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._engine = engine
        self._on_probed = on_probed
        self._on_compared = on_compared
        self._rows: dict[str, InferenceRequest] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._shadow_at: dict[str, float] = {}  # by pool in the shadow, when it may be asked next
        self._wanted_since: dict[str, float] = {}  # since when it may be asked, and no moment was found
        self._took_s: dict[str, deque[float]] = {}  # its latest calls
        self.shadowed: set[str] = set()
        """Pools that were asked in the shadow, so that what they have of a robot may not be its state."""

    def remember(self, pool: str, request: InferenceRequest) -> None:
        """Keeps the newest observation that a pool was to answer: the one that it failed on may be broken itself."""
        self._rows[pool] = request

    def forget(self, pool: str) -> None:
        """Forgets a pool that has ended."""
        self._rows.pop(pool, None)
        self._shadow_at.pop(pool, None)
        self._wanted_since.pop(pool, None)
        self._took_s.pop(pool, None)
        self.shadowed.discard(pool)

    def probe(self, pool: str) -> None:
        """Asks a pool once."""
        row = self._rows.get(pool)
        if row is None or pool in self._tasks:
            self._on_probed(pool, None if row is None else "a call still runs")
            return
        self._start(pool, self._probe(pool, copy_of(row, pool, PROBE)))

    def may_shadow(self, pool: str, now: float) -> bool:
        """Returns whether a pool in the shadow may be asked: it is not, and was not too lately for robots to notice."""
        return pool not in self._tasks and now >= self._shadow_at.get(pool, 0.0)

    def room_s(self, pool: str, answered: DispatchResult) -> float:
        """Returns for how long no robot should ask, so that none meets a call in the shadow."""
        took_s = self._took_s.get(pool)
        return ROOM * (max(took_s) if took_s else answered.latency_ms / 1e3)

    def is_impatient(self, pool: str, now: float) -> bool:
        """Returns whether no moment was found for so long that any will do."""
        return now - self._wanted_since.setdefault(pool, now) >= PATIENCE_S

    def shadow(self, pool: str, answered: DispatchResult) -> None:
        """Asks a pool what a robot has been answered; does nothing while it is busy with another one."""
        if pool not in self._tasks:
            self._wanted_since.pop(pool, None)
            self.shadowed.add(pool)
            request = answered.request
            # Its model may write its next result into the same memory before the shadow has answered.
            answered = replace(answered, values=own(answered.values))
            self._start(pool, self._compare(pool, answered, copy_of(request, pool, request.client_id)))

    def _start(self, pool: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[pool] = task
        task.add_done_callback(lambda _: self._tasks.pop(pool, None))

    async def _probe(self, pool: str, request: InferenceRequest) -> None:
        try:
            result = await self._call(request)
        except Exception as error:  # of a backend of another package
            why: str | None = f"{type(error).__name__}: {error}"
        else:
            why = None if result.refusal is None else result.refusal.reason
        self._tasks.pop(pool, None)
        self._dispatcher.end_session(PROBE)
        if why is None:
            self._rows.pop(pool, None)
        self._on_probed(pool, why)

    async def _compare(self, pool: str, answered: DispatchResult, request: InferenceRequest) -> None:
        began = time.monotonic()
        try:
            self._on_compared(pool, answered, await self._call(request))
        except Exception:  # of a backend of another package
            logger.exception("model %s, in the shadow", pool)
        now = time.monotonic()
        self._took_s.setdefault(pool, deque(maxlen=_REMEMBERED)).append(now - began)
        pause_s = (now - began + answered.latency_ms / 1e3) / SHADOW_SHARE
        self._shadow_at[pool] = now + min(pause_s, LONGEST_PAUSE_S)

    async def _call(self, request: InferenceRequest) -> DispatchResult:
        request.keeps_state = self._dispatcher.keeps_state(request.pool)
        replica = next(iter(self._dispatcher.replicas(request.pool)), "")
        (result,) = await self._dispatcher.dispatch([request], replica)
        return result


def copy_of(request: InferenceRequest, pool: str, client_id: str) -> InferenceRequest:
    """Returns a request for the same observation that no robot waits for, with memory of its own."""
    return InferenceRequest(
        client_id,
        request.model_id,
        request.identity,
        bytes(request.envelope),
        bytes(request.payload),
        time.monotonic(),
        request.urgency,
        request.steps_remaining,
        0.0,
        request.latency_budget_ms,
        request.priority,
        slots=request.slots,
        metadata=None if request.metadata is None else dict(request.metadata),
        pool=pool,
        request_id=request.request_id,  # with it the episode is that of the robot
        episode=request.episode,
        client_type=request.client_type,
    )
