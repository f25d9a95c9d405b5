"""What becomes of the rows of a call in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferential.errors import InferentialError


class ModelLoadError(InferentialError):
    """A worker process could not load its model."""


class CallFailed(InferentialError):
    """A call failed as a whole.

    Args:
        text: what the model raised, its type in front.
        place: where it was raised, as `FailurePlaces` says it.
    """

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.place = place


BY_MODEL = "model"
"""The cause of a refusal that is the model's own judgement of an observation."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row without a result.

    Attributes:
        status: its name.
        reason: why.
        place: where the model raised that, as `FailurePlaces` says it.
        cause: the reason in one word; "": it does not say.
    """

    status: str
    reason: str
    place: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Died:
    """A row that was not answered before its process ended.

    Attributes:
        reason: what became of the process.
        ran: whether this row was running, so that it may be the reason.
        timed_out: whether it was ended because this row took too long.
    """

    reason: str
    ran: bool
    timed_out: bool = False


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
class Answer:
    """A result whose origin is known.

    Attributes:
        values: arrays and strings by key.
        model_version: of the model that made it, as that says.
        fresh: whether the session of its robot began with it, of a model that keeps state; None: of any other.
    """

    values: Mapping[str, Any]
    model_version: str
    fresh: bool | None = None
