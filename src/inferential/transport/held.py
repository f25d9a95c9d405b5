"""Answers that wait for a connection which carries less than it is sent: of each model the newest alone.

What the system has taken cannot be replaced, so it takes little, and less of a connection that was too slow once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from inferential.proto.tensors import Buffer

UNSENT_BYTES, SLOW_UNSENT_BYTES = 512 * 1024, 64 * 1024
"""What the system may hold of a robot's answers beyond those that are under way: of one that has always taken all at
once, and of others. A lower limit costs wakeups where answers are large."""


class Answered(Protocol):
    """What of a request decides where its answer goes, and which answer is newer."""

    connection: int
    model_id: str
    request_id: int


T = TypeVar("T", bound=Answered)


@dataclass(frozen=True, slots=True)
class HeldAnswer(Generic[T]):
    """An answer, and the request that it is for."""

    request: T
    envelope: Buffer
    payload: Buffer


class HeldAnswers(Generic[T]):
    """The answers that wait for one connection."""

    def __init__(self) -> None:
        self._by_model: dict[str, HeldAnswer[T]] = {}

    def __len__(self) -> int:
        return len(self._by_model)

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(len(held.envelope) + len(held.payload) for held in self._by_model.values())

    def put(self, answer: HeldAnswer[T]) -> HeldAnswer[T] | None:
        """Holds an answer; returns the one that is out of date by that: an older one, or itself."""
        model_id = answer.request.model_id
        held = self._by_model.get(model_id)
        if held is not None and held.request.request_id > answer.request.request_id:
            return answer
        self._by_model[model_id] = answer
        return held

    def take(self) -> list[HeldAnswer[T]]:
        """Returns all of them, the longest waiting first, and holds none."""
        taken = list(self._by_model.values())
        self._by_model.clear()
        return taken
