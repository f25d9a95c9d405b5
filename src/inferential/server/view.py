"""What a server shows of itself: its parts, its state as plain values, and whether robots may be sent to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from inferential.config.exposure import exposure
from inferential.config.schema import InferentialConfig
from inferential.dispatch.base import Dispatcher, ModelProblem
from inferential.metrics.collector import MetricsCollector
from inferential.scheduler.base import Scheduler
from inferential.scheduler.time.profile import Profiles
from inferential.server.core import Core
from inferential.server.executor import Executor
from inferential.server.history import MAX_FINISHED_CALLS, History
from inferential.server.key_watch import KeyWatch
from inferential.server.pump import EventPump
from inferential.server.robot import RobotStatus, robot_of
from inferential.server.status import ClientStatus, ServerStatus, some_clients, status_of
from inferential.transport.zmq_transport import ZmqTransport


@dataclass(frozen=True, slots=True)
class Run:
    """What exists of a server from `start` to `shutdown`; `closed` is set at the end of that."""

    loop: asyncio.AbstractEventLoop
    transport: ZmqTransport
    pump: EventPump
    executor: Executor
    history: History
    keys: KeyWatch
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class ServerView:
    """The part of `Server` that changes nothing."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._run: Run | None = None

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._run is not None

    @property
    def address(self) -> str:
        """The address it listens on, with the real port.

        Raises:
            RuntimeError: it does not run.
        """
        return self._require_run().transport.address

    @property
    def addresses(self) -> list[str]:
        """All addresses it listens on, in the order of `transport.bind`; `address` is the first.

        Raises:
            RuntimeError: it does not run.
        """
        return self._require_run().transport.addresses

    @property
    def config(self) -> InferentialConfig:
        """The configuration in force; change it with `reconfigure`."""
        return self._core.config

    @property
    def dispatcher(self) -> Dispatcher:
        """The backend that runs the models."""
        return self._core.dispatcher

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler in use."""
        return self._core.engine.scheduler

    @property
    def profiles(self) -> Profiles:
        """The models' latencies by batch size, as learned so far."""
        return self._core.engine.profiles

    @property
    def metrics(self) -> MetricsCollector:
        """The metrics: record your own, read all, and add callbacks."""
        return self._core.metrics

    @property
    def connected_robots(self) -> list[str]:
        """The ids of the connected clients, longest connected first.

        A client is connected from its first observation until it has been silent for
        `response_tracking.disconnect_timeout_s`.
        """
        return list(self._core.accounting.fleet.registry.all_clients)

    def status(self) -> ServerStatus:
        """Returns the state of the fleet, the models and the newest batches.

        Raises:
            RuntimeError: it does not run.
        """
        return self._status(self.known_clients)

    @property
    def late_by_cause(self) -> dict[str, int]:
        """Late actions of all robots since the server started, by what made them late."""
        return dict(self._core.accounting.late_by_cause)

    @property
    def robots_by_state(self) -> dict[str, int]:
        """How many clients are "active" and how many "overdue". They are counted, which takes microseconds."""
        fleet = self._core.accounting.fleet
        overdue = fleet.overdue_count
        return {"active": fleet.active_count - overdue, "overdue": overdue}

    @property
    def departed_robots(self) -> list[str]:
        """The ids of the newest clients that are gone and have not returned, longest gone first."""
        return list(self._core.accounting.fleet.departed)

    @property
    def known_clients(self) -> list[str]:
        """The ids of the connected clients, then of those that disconnected lately."""
        return [*self.connected_robots, *self.departed_robots]

    @property
    def model_ids(self) -> list[str]:
        """The ids of the models, sorted; of a backend that takes any id, those that were asked."""
        served = self._core.model_ids()
        return sorted(self.profiles.models() if served is None else served)

    def overview(self, after_ended: int = 0, most_batches: int = MAX_FINISHED_CALLS) -> ServerStatus:
        """Returns the status without clients, whose number may be large; `client_status` has them, some at a time.

        Of the calls that have ended it has those that did after the first `after_ended` of them; of more than
        `most_batches` so many or fewer, at even distances.
        """
        return self._status((), after_ended, most_batches)

    def client_status(self, client_ids: Iterable[str], *, with_lateness: bool = True) -> list[ClientStatus]:
        """Returns the status of those of these clients that are connected, or disconnected lately.

        Without their lateness (`ModelUse.lateness` is None) it takes a tenth of the time.
        """
        fleet, now = self._core.accounting.fleet, time.monotonic()
        return some_clients(fleet, self._core.shares, now, client_ids, with_lateness=with_lateness)

    def robot(self, client_id: str) -> RobotStatus | None:
        """Returns what is known of one robot, with its last actions part by part; None: it is not known.

        Raises:
            RuntimeError: it does not run.
        """
        self._require_run()
        found = self.client_status([client_id])
        if not found:
            return None
        return robot_of(found[0], self._core.accounting.fleet, self._core.models, time.monotonic())

    def _status(
        self, client_ids: Iterable[str], after_ended: int = 0, most_batches: int = MAX_FINISHED_CALLS
    ) -> ServerStatus:
        run, core = self._require_run(), self._core
        return status_of(
            client_ids=client_ids,
            after_ended=after_ended,
            most_batches=most_batches,
            address=run.transport.address,
            strategy=core.config.scheduling.strategy,
            draining=run.pump.draining,
            fleet=core.accounting.fleet,
            shares=core.shares,
            engine=core.engine,
            model_ids=core.model_ids(),
            capacities=core.capacities,
            dispatcher=core.dispatcher,
            history=run.history,
            models=core.models,
            warnings=exposure(core.config),
            late_by_cause=core.accounting.late_by_cause,
            counters={
                "pump_runs": run.pump.runs,
                "calls_ended": run.history.ended_count,
                "calls_inline": run.executor.inline_calls,
                "observations_clock_off": core.ingress.clocks_off,
                "calls_as_tasks": run.executor.task_calls,
                "handshakes_failed": run.keys.failures,
            },
            sizes={
                "timers": int(run.pump.timer_set),
                "call_tasks": len(run.executor),
                "calls_remembered": len(run.history),
                **run.transport.sizes(),
                **core.sizes(),
            },
        )

    def readiness(self) -> list[str]:
        """Returns why robots should not be sent here; empty if they may. Asks no client: it takes microseconds.

        A model that fails or hangs keeps no robots away while another one answers: what it fails with may be what the
        robots send, and would be everywhere.
        """
        problems = ["the server is draining"] if self._require_run().pump.draining else []
        faults, without = self._faults(), set(self._core.without_replica())
        down = without | {model_id for model_id, fault in faults.items() if fault.is_down}
        for model_id in sorted(down):
            reason = f": {faults[model_id].reason}" if model_id in faults else ""
            problems.append(f"model {model_id!r} has no replica{reason}")
        silent = self._silent(down)
        if silent and len(down.union(silent)) == len(self.model_ids):
            problems += silent.values()
        return problems

    def is_ready(self, model_id: str) -> bool:
        """Returns whether a model answers."""
        return self._core.models.condition(model_id).answers

    def model_states(self) -> dict[str, dict[str, Any]]:
        """Returns, by model id, {"state", "since", "why"}: `since` in seconds since 1970, None since the start."""
        found = {}
        for model_id in self.model_ids:
            condition = self._core.models.condition(model_id)
            found[model_id] = {
                "state": condition.state.value,
                "since": condition.since_unix(time.monotonic(), time.time()),
                "why": condition.why,
            }
        return found

    def impairments(self) -> list[str]:
        """Returns which models fail, or have fewer replicas or slots than they should, where that keeps none away."""
        without, faults = set(self._core.without_replica()), self._faults()
        silent = self._silent(without | {model_id for model_id, fault in faults.items() if fault.is_down})
        return [
            *silent.values(),
            *(
                f"model {model_id!r} is impaired: {fault.reason}"
                for model_id, fault in sorted(faults.items())
                if not fault.is_down and model_id not in without and model_id not in silent
            ),
        ]

    def _silent(self, down: set[str]) -> dict[str, str]:
        """Returns the models that have replicas and do not answer, besides these, and what each is at."""
        conditions = {model_id: self._core.models.condition(model_id) for model_id in self.model_ids}
        return {
            model_id: f"model {model_id!r}: {condition.brief}"
            for model_id, condition in conditions.items()
            if model_id not in down and not condition.answers
        }

    def _faults(self) -> dict[str, ModelProblem]:
        """Returns the problems of the pools that answer, by the ids of their models."""
        models, problems = self._core.models, self._core.dispatcher.problems()
        if not models.managed:
            return dict(problems)
        pools = {model_id: models.pool_of(model_id) for model_id in models.model_ids()}
        return {model_id: problems[pool] for model_id, pool in pools.items() if pool in problems}

    def _require_run(self) -> Run:
        if self._run is None:
            raise RuntimeError("the server does not run: this is known from start() to shutdown()")
        return self._run
