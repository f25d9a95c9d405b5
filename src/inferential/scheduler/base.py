"""The interface of schedulers, and the registries of scheduling strategies and score policies.

Each strategy is a module of its own; which requests may wait at all is decided in `client_queues`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from inferential.errors import InferentialError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from inferential.config.schema import SchedulingConfig
    from inferential.scheduler.request import InferenceRequest
    from inferential.scheduler.time.availability import Availability, ReplicaSlot

ENTRY_POINTS = "inferential.schedulers"
"""Group of the entry points under which other packages offer strategies."""


class QueueFullError(InferentialError):
    """The queue is full, and the new request was not taken.

    Attributes:
        client_id: the client whose request it is.
    """

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        super().__init__(f"queue is full: request of client {client_id!r} not taken")


class Scheduler(ABC):
    """Holds waiting requests and decides which is served next.

    A scheduler is called from one event loop and needs no lock. Times are seconds of `time.monotonic()`, read
    when a method is called. It changes no request's state and answers no client: the server does both.

    A strategy of your own needs five methods. This one serves the newest request first:

    >>> import time
    >>> from inferential.config import SchedulingConfig
    >>> from inferential.scheduler import InferenceRequest, Scheduler, create_scheduler, register_scheduler
    >>> @register_scheduler("newest_first")
    ... class NewestFirst(Scheduler):
    ...     def __init__(self, config):
    ...         self._waiting = []
    ...     def submit(self, request):
    ...         self._waiting.append(request)
    ...     def next_batch(self):
    ...         return [self._waiting.pop()] if self._waiting else []
    ...     def tick(self):
    ...         return None
    ...     def status(self):
    ...         return {"strategy": "newest_first", "queue_size": len(self._waiting)}
    ...     def queue_len(self):
    ...         return len(self._waiting)
    >>> scheduler = create_scheduler(SchedulingConfig(strategy="newest_first"))
    >>> for client_id in ("arm-1", "arm-2"):
    ...     scheduler.submit(
    ...         InferenceRequest(
    ...             client_id=client_id,
    ...             model_id="policy",
    ...             identity=client_id.encode(),
    ...             envelope=b"",
    ...             payload=b"",
    ...             received_at=time.monotonic(),
    ...             urgency=0.0,
    ...             steps_remaining=None,
    ...             time_until_next=0.1,
    ...             latency_budget_ms=50.0,
    ...             priority=1,
    ...         )
    ...     )
    >>> scheduler.next_batch()[0].client_id
    'arm-2'

    In a server: `server.use_scheduler("newest_first")`, or `scheduling.strategy` in its configuration.

    Attributes:
        window: how many waiting requests of one client for one model the server submits at once, the rest
            staying in the client's own queue until those are served; None: all of them.
    """

    window: int | None = None

    @abstractmethod
    def submit(self, request: InferenceRequest) -> None:
        """Takes a request; may drop a waiting one for it.

        Raises:
            QueueFullError: the queue is full, and the new request is not taken.
        """

    def resubmit(self, request: InferenceRequest) -> None:
        """Takes a request again whose model failed; the size limit does not apply."""
        self.submit(request)

    @abstractmethod
    def next_batch(self) -> list[InferenceRequest]:
        """Removes and returns the requests to run next; those of one model run in one call. Empty if none is due."""

    @abstractmethod
    def tick(self) -> int | None:
        """Removes requests that have outlived their time to live; returns their number, None if it does not count."""

    def on_client_connected(self, client_id: str) -> None:  # noqa: B027 (free to ignore)
        """Called when a client sends its first request."""

    def on_client_disconnected(self, client_id: str) -> None:  # noqa: B027 (free to ignore)
        """Called when a client is gone; removes its waiting requests."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Returns figures for people to read; built-in ones have strategy, queue_size, max_queue_size and models."""

    @abstractmethod
    def queue_len(self) -> int:
        """Returns how many requests wait."""


class ModelAwareScheduler(Scheduler):
    """A scheduler that can be asked for one model's requests, so that a busy model holds up no other."""

    may_defer = True
    """Whether a request may have to wait although its model is free and nothing else waits for it, as for a batch to
    fill. Where it is False, such a request bypasses the queues, and the strategy never sees it. A class that does not
    set it itself (it derives from one that does) sees every request."""
    gives_whole_calls = False
    """Whether `next_batch_on` returns nothing where `filled` is not 0; of a class that sets it itself, as above."""

    @abstractmethod
    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        """Removes and returns up to `limit` requests of one model, first to be served first; empty if none is due.

        Args:
            model_id: which model is free.
            limit: the most requests to return; None: as many as the strategy serves at once.
        """

    @abstractmethod
    def models(self) -> list[str]:
        """Returns the ids of the models that requests wait for."""

    @abstractmethod
    def queue_len_for_model(self, model_id: str) -> int:
        """Returns how many requests wait for a model."""

    @abstractmethod
    def remove(self, request: InferenceRequest) -> bool:
        """Removes one waiting request; returns False if it does not wait here."""

    def ready_at(self, model_id: str) -> float | None:
        """Returns from when on `next_batch_for_model` returns something, in seconds of `time.monotonic()`.

        In the past (or -inf): it does now. None: nothing waits for that model.
        """
        return -math.inf if self.queue_len_for_model(model_id) else None

    def eviction_rank(self, request: InferenceRequest) -> int:
        """Returns the rank of a request; where the queue is full, requests of the highest rank are dropped first."""
        return 0

    # Only strategies that go by the models' time override what follows.

    def bind(self, availability: Availability) -> None:
        """Called once, before the first request.

        Args:
            availability: has the models' replicas, their latencies and when each is free.
        """

    def next_batch_on(self, slot: ReplicaSlot, filled: int = 0) -> list[InferenceRequest]:
        """Removes and returns requests of the call that a free replica runs next; called until it is full or [] comes.

        Args:
            slot: the replica.
            filled: how many rows of the same call were returned before.
        """
        return self.next_batch_for_model(slot.model_id, slot.max_batch_size - filled)

    def ready_on(self, slot: ReplicaSlot) -> float | None:
        """Returns from when on `next_batch_on` returns something for this replica; by default what `ready_at` returns.

        A strategy whose `next_batch_on` depends on the replica overrides both, so that they agree. Where they do not
        (it says "now" and then returns nothing), the engine asks again after `engine.RETRY_S`.
        """
        return self.ready_at(slot.model_id)

    def in_turn(self, model_ids: Sequence[str]) -> Sequence[str]:
        """Returns models that share one free device, in the order in which they may use it.

        Args:
            model_ids: models that requests wait for; the one that used the device last is the last.
        """
        return model_ids

    def take_infeasible(self) -> list[tuple[InferenceRequest, str]]:
        """Removes and returns requests that cannot be in time and want to be refused then, each with the reason."""
        return []

    def take_outdated(self) -> list[InferenceRequest]:
        """Returns waiting requests whose robots are to be asked for a newer observation, each of them once."""
        return []

    def infeasible_at(self) -> float | None:
        """Returns from when on `take_infeasible` or `take_outdated` returns something by itself; None: it will not."""
        return None

    def next_batch(self) -> list[InferenceRequest]:
        """Removes and returns the batch of the first model that has one due; empty if none has."""
        for model_id in self.models():
            if batch := self.next_batch_for_model(model_id):
                return batch
        return []


Policy = Callable[["InferenceRequest"], float]
"""Scores a request; the highest goes first."""

SchedulerFactory = Callable[["SchedulingConfig"], Scheduler]
"""Builds a scheduler; usually its class."""

_SchedulerT = TypeVar("_SchedulerT", bound=SchedulerFactory)
_PolicyT = TypeVar("_PolicyT", bound=Policy)

factories: dict[str, SchedulerFactory] = {}
"""The strategies that are registered, by name; `register_scheduler` adds to them."""
_policies: dict[str, Policy] = {}


def register_scheduler(name: str) -> Callable[[_SchedulerT], _SchedulerT]:
    """Registers the decorated class (or function), which is called with a SchedulingConfig, as strategy `name`."""

    def register(factory: _SchedulerT) -> _SchedulerT:
        factories[name] = factory
        return factory

    return register


def register_policy(name: str) -> Callable[[_PolicyT], _PolicyT]:
    """Registers the decorated function, which returns the score of a request, as policy `name`."""

    def register(policy: _PolicyT) -> _PolicyT:
        _policies[name] = policy
        return policy

    return register


def get_policy(name: str) -> Policy | None:
    """Returns the policy registered as `name`; None if there is none."""
    return _policies.get(name)


def policy_names() -> list[str]:
    """Returns the names of the registered policies, sorted."""
    return sorted(_policies)


def get_scheduler(name: str) -> SchedulerFactory:
    """Returns what builds the strategy `name`; imports it where an installed package offers it.

    Raises:
        ValueError: no strategy has that name.
    """
    if name not in factories:
        for entry in _installed().select(name=name):
            factories[name] = entry.load()
    try:
        return factories[name]
    except KeyError:
        known = ", ".join(scheduler_names())
        raise ValueError(f"Unknown scheduler strategy '{name}'. Known: {known}") from None


def scheduler_names() -> list[str]:
    """Returns the names of all strategies, sorted; those of installed packages are not imported for it."""
    return sorted(factories.keys() | _installed().names)


def create_scheduler(config: SchedulingConfig) -> Scheduler:
    """Builds the scheduler that `config.strategy` names.

    Raises:
        ValueError: no strategy has that name.
    """
    return get_scheduler(config.strategy)(config)


def _installed() -> EntryPoints:
    from importlib.metadata import entry_points  # here: reading all packages' metadata takes milliseconds

    return entry_points(group=ENTRY_POINTS)
