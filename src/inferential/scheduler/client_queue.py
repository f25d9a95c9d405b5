"""The waiting requests of one client for one model."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import takewhile

from inferential.scheduler.request import InferenceRequest


@dataclass(slots=True)
class ClientQueue:
    """The waiting requests of one client, or one connection whatever client ids it uses, for one model."""

    shown: dict[InferenceRequest, None] = field(default_factory=dict)
    """Submitted to the strategy."""
    behind: OrderedDict[InferenceRequest, None] = field(default_factory=OrderedDict)
    """Waiting behind those."""
    latest: InferenceRequest | None = None
    """The request that a newer observation supersedes; None: none of the waiting ones."""
    episode: int = 0
    """Of the newest request."""
    serial: bool = False
    """Whether the strategy sees one request at a time, as their model keeps state of the robot."""

    def former_episodes(self, request: InferenceRequest) -> list[InferenceRequest]:
        """Returns the waiting requests that a new one ends because its client has begun another episode since."""

        def is_former(other: InferenceRequest) -> bool:
            return other.client_id == request.client_id and other.episode != request.episode

        # They are the oldest: a connection that sends as many clients pays for its own requests only.
        return [*takewhile(is_former, self.shown), *takewhile(is_former, self.behind)]
