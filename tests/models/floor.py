"""Models, their queues and robots by a made-up clock: what decides is real, and calls end when the test says so."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from inferential.config import InferentialConfig
from inferential.dispatch.base import REPLICA_LOST, Dispatcher, DispatchResult
from inferential.models.manager import ModelManager
from inferential.models.readiness import Surroundings
from inferential.replica.condition import Condition, ModelState
from inferential.scheduler import create_scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.request import ANSWERED, DISPATCHED, InferenceRequest, Refusal, RefusalKind


class Backend(Dispatcher):
    """Has every model that it is given, in these replicas."""

    def __init__(self) -> None:
        super().__init__()
        self.pools: dict[str, Any] = {}
        self.up: dict[str, tuple[str, ...]] = {}
        self.stateful: set[str] = set()
        self.ran: list[str] = []  # calls past the queues: of a shadow
        self.answer = {"actions": np.ones(2)}
        self.down: set[str] = set()
        self.latencies: list[tuple[int, float]] = []  # of a warm-up

    async def infer(self, model_id: str, observations: Sequence[Any]) -> Sequence[Any]:
        self.ran.append(model_id)
        return [self.answer for _ in observations]

    def register_model(self, model_id: str, model: Any) -> None:
        self.pools[model_id] = model

    def unregister_model(self, model_id: str) -> None:
        self.pools.pop(model_id, None)

    def conditions(self) -> Mapping[str, Sequence[Condition]]:
        states = {pool: ModelState.FAILING if pool in self.down else ModelState.READY for pool in self.pools}
        return {
            pool: [Condition(state, 0.0, "it is down" if pool in self.down else "")] for pool, state in states.items()
        }

    def measured(self, model_id: str) -> Sequence[tuple[int, float]]:
        return self.latencies

    def replicas(self, model_id: str) -> Sequence[str]:
        return self.up.get(model_id, ("",))

    def keeps_state(self, model_id: str) -> bool:
        return model_id.partition("%")[0] in self.stateful


class Floor:
    """One model "m" of some versions, and the requests of its robots.

    Args:
        model: its settings.
        stateful: pools that keep state.
        up: replicas of pools that have several.
        inflight: calls that a replica runs at once.
        others: settings of models beside it, by id.
    """

    def __init__(
        self,
        model: dict[str, Any],
        stateful: Sequence[str] = (),
        up: Mapping[str, tuple[str, ...]] | None = None,
        inflight: int = 1,
        **others: dict[str, Any],
    ) -> None:
        self.output = np.ones(2)  # what the models write their actions into
        self.now = 100.0
        self._others, self._inflight = others, inflight
        self.requests: list[InferenceRequest] = []
        self.expected_in_s = math.inf  # until the next observation of a robot
        config = self._config(model)
        self.backend = Backend()
        self.backend.stateful, self.backend.up = set(stateful), dict(up or {})
        scheduling = config.scheduling
        self.engine = Engine(scheduling, create_scheduler(scheduling), self._capacity)
        self.models = ModelManager(
            Surroundings(self.backend, self.engine, self._capacity, lambda pool, state: None, lambda: 30.0),
            lambda: self.backend.pools,
            expects=lambda now, within_s: self.expected_in_s < within_s,
        )
        self.models.build = lambda model_id, settings: settings
        self.models.on_overdue = lambda batch, moved: self.engine.hand_over(batch, moved, self.now)
        with self.clock():
            self.models.configure(config.models)
            self.models.refresh()

    def _capacity(self, pool: str) -> Capacity:
        # As `Capacities` has it: a replica with state is a pool of its own, which is there while it is up.
        base, _, replica = pool.partition("%")
        up = self.backend.up.get(base, ("0",))
        is_gone = (replica and replica not in up) or base in self.backend.down or base not in self.backend.pools
        return Capacity(0 if is_gone else self._inflight, 4, ("",) if replica else tuple(self.backend.replicas(base)))

    @contextmanager
    def clock(self) -> Iterator[None]:
        with patch.object(time, "monotonic", side_effect=lambda: self.now):
            yield

    def ask(self, client_id: str, budget_ms: float = 100.0, **fields: Any) -> InferenceRequest:
        """Offers an observation of a robot."""
        fields = {"takes_latest": True} | fields
        episode = fields.get("episode", 0)
        pool = self.models.route("m", client_id, "", episode=episode, between_chunks=True, now=self.now)
        request = InferenceRequest(
            client_id, "m", client_id.encode(), b"", b"", self.now, 0.0, None, 0.0, budget_ms, 1, pool=pool, **fields
        )
        self.models.keep_order(request)
        self.requests.append(request)
        with self.clock():
            early = self.models.is_unready(request)
            if early and (refusal := self.models.refusal(request)) is not None:
                request.refuse(refusal)
                return request
            self.engine.offer(request, self.now)
            if early:
                self.models.hold(request, explicit=True)
        return request

    def work(self) -> dict[str, Batch]:
        """Begins calls; returns them by pool."""
        return {batch.model_id: batch for batch in self.begin()}

    def begin(self) -> list[Batch]:
        """Begins calls."""
        with self.clock():
            if self.models.changing:
                self.models.settle()
            return self.engine.work(self.now)

    def configure(self, model: dict[str, Any]) -> None:
        """Gives the model other settings."""
        with self.clock():
            self.models.configure(self._config(model).models)
            self.models.refresh()

    def looks(self) -> None:
        """Does what follows when the backend has changed."""
        with self.clock():
            self.models.refresh()

    def end(self, batch: Batch, error: str | None = None, cause: str = "RuntimeError") -> list[InferenceRequest]:
        """Ends a call with results, or fails it, as the executor does; returns the requests that have ended by it."""
        ended = []
        refusal = None if error is None else Refusal(RefusalKind.MODEL_FAILED, error, cause)
        values = {"actions": self.output} if error is None else None
        with self.clock():
            latency_ms = (self.now - batch.started_at) * 1e3
            results = [DispatchResult(one, latency_ms, values=values, refusal=refusal) for one in batch.requests]
            for request in batch.requests if not batch.handed_over else ():
                if request.state is not DISPATCHED:
                    continue
                if refusal is not None and (self.models.second_chance(request, refusal) or cause == REPLICA_LOST):
                    self.engine.retry(request, self.now)
                    continue
                ended.append(request)
                if refusal is None:
                    request.move(ANSWERED)
                else:
                    request.refuse(refusal)
            self.engine.finished(batch, self.now)
            self.engine.release(batch, self.now)
            self.models.note_call(batch, results, self.now)
        return ended

    def serve(self, client_id: str, takes_s: float, times: int = 1) -> None:
        """Has a robot asked and answered, by calls of this length."""
        for _ in range(times):
            self.ask(client_id)
            (batch,) = self.work().values()
            self.now += takes_s
            self.end(batch)

    def expire(self) -> None:
        """Does what the timer does."""
        with self.clock():
            self.models.expire(self.now)
            self.models.look(self.now)

    def _config(self, model: dict[str, Any]) -> InferentialConfig:
        return InferentialConfig.model_validate({"models": {"known": {"m": model, **self._others}}})
