"""What pump and executor go by where nothing observes the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from inferential.dispatch.base import DispatchResult
from inferential.scheduler.request import InferenceRequest, Refusal
from inferential.scheduler.running import Batch


class AllReady:
    """What a pump goes by where nothing observes the models."""

    unready: frozenset[str] = frozenset()
    replaceable: Mapping[str, str] = MappingProxyType({})

    def is_unready(self, request: InferenceRequest) -> bool:
        """Returns False: every model answers."""
        return False

    def refusal(self, request: InferenceRequest) -> Refusal | None:
        """Returns None: every model answers."""
        return None

    def hold(self, request: InferenceRequest, *, explicit: bool) -> None:
        """Does nothing."""

    def due_at(self) -> float | None:
        """Returns None: nothing is held."""
        return None

    def expire(self, now: float) -> None:
        """Does nothing."""

    def look(self, now: float) -> None:
        """Does nothing."""

    def explain(self, request: InferenceRequest) -> None:
        """Does nothing."""

    def forget_client(self, client_id: str) -> None:
        """Does nothing."""

    def note_call(self, batch: Batch, results: Sequence[DispatchResult], now: float) -> None:
        """Does nothing."""

    def is_replaceable(self, pool: str) -> bool:
        """Returns False: there is no other version."""
        return False

    def second_chance(self, request: InferenceRequest, refusal: Refusal) -> bool:
        """Returns False: there is no other version."""
        return False

    @property
    def changing(self) -> bool:
        """Whether `settle` may have something to do: never."""
        return False

    def settle(self) -> None:
        """Does nothing."""
