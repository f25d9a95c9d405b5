"""What a scheduler is, and the registries that scheduling strategies and score policies are found in.

It orders nothing itself: each strategy is a module of its own, and who may wait at all is admission's business.
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
    from inferential.scheduler.outlook import Outlook, Slot
    from inferential.scheduler.request import InferenceRequest

ENTRY_POINTS = "inferential.schedulers"
"""Group of the entry points under which other packages offer strategies."""


class QueueFullError(InferentialError):
    """The queue is full, and it is the newcomer that has to go.

    Attributes:
        client_id: whose request was not taken.
    """

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        super().__init__(f"queue is full: request of client {client_id!r} not taken")


class Scheduler(ABC):
    """Holds requests that wait and says which goes next.

    A scheduler is asked by one event loop and needs no lock. Times are seconds of `time.monotonic()`, read
    when a method is called. It changes no request's state and answers no client: whoever runs it does.

    Attributes:
        window: how many waiting requests of one client for one model the server shows it at once, the rest
            waiting in the client's own line until those are served; None: all of them.
    """

    window: int | None = None

    @abstractmethod
    def submit(self, request: InferenceRequest) -> None:
        """Takes a request. May evict a waiting one; raises QueueFullError where the newcomer has to go."""

    def resubmit(self, request: InferenceRequest) -> None:
        """Takes a request again that is to be retried, whatever the size limit says."""
        self.submit(request)

    @abstractmethod
    def next_batch(self) -> list[InferenceRequest]:
        """Gives up the requests to run next, in one call of their model where they share it; [] if none is due."""

    @abstractmethod
    def tick(self) -> int | None:
        """Does what only time brings about; returns how many requests outlived their time to live and are gone."""

    def on_client_connected(self, client_id: str) -> None:  # noqa: B027 (free to ignore)
        """A client was seen for the first time."""

    def on_client_disconnected(self, client_id: str) -> None:  # noqa: B027 (free to ignore)
        """A client is gone: its waiting requests should go too."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """How things stand, for people: the built-in ones tell strategy, queue_size, max_queue_size and models."""

    @abstractmethod
    def queue_len(self) -> int:
        """How many requests wait."""


class ModelAwareScheduler(Scheduler):
    """A scheduler that can be asked for one model's requests, so that a busy model holds up no other."""

    holds_back = True
    """Whether a request may have to wait though its model is free and nobody else asks for it, as for a batch to fill.
    Where it is False, such a request goes straight to its model, and the strategy never sees it."""

    @abstractmethod
    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        """Gives up to `limit` requests of that model, first to be served first; [] if none is due.

        Args:
            model_id: which model is free.
            limit: how many it takes; None: as many as the strategy serves at once.
        """

    @abstractmethod
    def models(self) -> list[str]:
        """The models that something waits for."""

    @abstractmethod
    def queue_len_for_model(self, model_id: str) -> int:
        """How many requests wait for that model."""

    @abstractmethod
    def remove(self, request: InferenceRequest) -> bool:
        """Forgets one waiting request; False if it does not wait here."""

    def ready_at(self, model_id: str) -> float | None:
        """The instant of time.monotonic() from which `next_batch_for_model` gives something.

        In the past (or -inf): it does at once. None: nothing waits for that model.
        """
        return -math.inf if self.queue_len_for_model(model_id) else None

    def eviction_rank(self, request: InferenceRequest) -> int:
        """Where the queue is full, requests of the highest rank are evicted first."""
        return 0

    # What only a strategy needs that goes by the models' time; the others leave it as it is.

    def look_at(self, outlook: Outlook) -> None:
        """Told once, before the first request: where replicas, latencies and free slots can be looked up."""

    def next_batch_on(self, slot: Slot, filled: int = 0) -> list[InferenceRequest]:
        """Gives the requests of the call that a free replica runs next; asked again until it gives none or it is full.

        Args:
            slot: the replica.
            filled: how many rows of the same call were given before.
        """
        return self.next_batch_for_model(slot.model_id, slot.max_batch_size - filled)

    def in_turn(self, model_ids: Sequence[str]) -> Sequence[str]:
        """The order in which models that share one device, which is free, may have it.

        Args:
            model_ids: models that something waits for, in turn: the one that had it last is the last.
        """
        return model_ids

    def given_up(self) -> list[tuple[InferenceRequest, str]]:
        """Requests that cannot be in time and want to be refused then, and why; they wait here no more."""
        return []

    def gives_up_at(self) -> float | None:
        """From when on `given_up` gives something, if nothing else happens; None: it will not."""
        return None

    def next_batch(self) -> list[InferenceRequest]:
        """The batch of the first model that has one due."""
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

_schedulers: dict[str, SchedulerFactory] = {}
_policies: dict[str, Policy] = {}


def register_scheduler(name: str) -> Callable[[_SchedulerT], _SchedulerT]:
    """Makes the decorated class (or function), called with a SchedulingConfig, known as strategy `name`."""

    def register(factory: _SchedulerT) -> _SchedulerT:
        _schedulers[name] = factory
        return factory

    return register


def register_policy(name: str) -> Callable[[_PolicyT], _PolicyT]:
    """Makes the decorated function, called with a request, known as score policy `name`."""

    def register(policy: _PolicyT) -> _PolicyT:
        _policies[name] = policy
        return policy

    return register


def get_policy(name: str) -> Policy | None:
    """The policy registered as `name`, None if there is none."""
    return _policies.get(name)


def policy_names() -> list[str]:
    """The registered policies, sorted."""
    return sorted(_policies)


def get_scheduler(name: str) -> SchedulerFactory:
    """What builds the strategy `name`; an installed package's is imported now.

    Raises:
        ValueError: no strategy has that name.
    """
    if name not in _schedulers:
        for entry in _installed().select(name=name):
            _schedulers[name] = entry.load()
    try:
        return _schedulers[name]
    except KeyError:
        known = ", ".join(scheduler_names())
        raise ValueError(f"Unknown scheduler strategy '{name}'. Known: {known}") from None


def scheduler_names() -> list[str]:
    """The strategies that there are, sorted; those of installed packages are listed without importing them."""
    return sorted(_schedulers.keys() | _installed().names)


def create_scheduler(config: SchedulingConfig) -> Scheduler:
    """Builds the scheduler that `config.strategy` names.

    Raises:
        ValueError: no strategy has that name.
    """
    return get_scheduler(config.strategy)(config)


def _installed() -> EntryPoints:
    from importlib.metadata import entry_points  # here: reading all packages' metadata takes milliseconds

    return entry_points(group=ENTRY_POINTS)
