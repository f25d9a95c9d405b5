"""What is called for every request, to record or to show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from inferential.dispatch.base import DispatchResult
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.tracking.outcome_counts import UsedLate

_What = TypeVar("_What")


class RequestWatcher(Protocol):
    """Sees requests on the event loop; must not wait, nor raise."""

    def dispatched(self, batch: Batch) -> None:
        """Called with each batch before its model gets it."""

    def answered(self, result: DispatchResult) -> None:
        """Called with each result that was sent, and its frames."""

    def ended(self, request: InferenceRequest) -> None:
        """Called with each request that has ended."""

    def used_late(self, used: UsedLate) -> None:
        """Called with each answer that a robot used too late, when it says so: with a later observation."""


def each(callbacks: Sequence[Callable[[_What], None]]) -> Callable[[_What], None] | None:
    """Returns what calls all of them; None for none, which costs the caller nothing."""
    if len(callbacks) <= 1:
        return callbacks[0] if callbacks else None

    def call_all(what: _What) -> None:
        for callback in callbacks:
            callback(what)

    return call_all
