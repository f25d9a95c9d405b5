"""The waiting requests of one client for one model."""

from __future__ import annotations

from collections import OrderedDict
from itertools import takewhile

from inferential.scheduler.request import InferenceRequest

Key = tuple[int | str, str]
"""Of a queue: a connection or client and a pool, or where requests run in order a robot and a model."""
_NOTHING: OrderedDict[InferenceRequest, None] = OrderedDict()  # what waits behind in almost all of them


def key_of(request: InferenceRequest) -> Key:
    """Returns the key of the queue that a request belongs to, as its pool is now."""
    return request.in_order or (request.connection or request.client_id, request.pool)


class ClientQueue:
    """The waiting requests of one client, or one connection whatever client ids it uses, for one model.

    Attributes:
        key: by which it is found.
        shown: submitted to the strategy.
        behind: waiting behind those; added to by `hold_back`.
        latest: the request that a newer observation supersedes; None: none of the waiting ones.
        episode: of the newest request.
        serial: whether the strategy sees one request at a time, as their model keeps state of the robot.
    """

    __slots__ = ("behind", "episode", "key", "latest", "serial", "shown")

    def __init__(self, key: Key) -> None:
        self.key: Key = key
        self.shown: dict[InferenceRequest, None] = {}
        self.behind: OrderedDict[InferenceRequest, None] = _NOTHING
        self.latest: InferenceRequest | None = None
        self.episode: int = 0
        self.serial: bool = False

    def hold_back(self, request: InferenceRequest) -> None:
        """Has a request wait behind the others."""
        if self.behind is _NOTHING:
            self.behind = OrderedDict()
        self.behind[request] = None

    def take_back(self, request: InferenceRequest) -> None:
        """Has a request wait behind again that was shown."""
        del self.shown[request]
        self.hold_back(request)

    def sort(self) -> None:
        """Puts what waits behind in the order in which it arrived."""
        self.behind = OrderedDict.fromkeys(sorted(self.behind, key=lambda one: one.arrival))

    def superseded_by(self, request: InferenceRequest) -> InferenceRequest | None:
        """Returns the waiting request whose place a newer observation of the same client takes."""
        latest = self.latest
        return latest if latest is not None and latest.client_id == request.client_id else None

    def former_episodes(self, request: InferenceRequest) -> list[InferenceRequest]:
        """Returns the waiting requests that a new one ends because its client has begun another episode since."""

        def is_former(other: InferenceRequest) -> bool:
            return other.client_id == request.client_id and other.episode != request.episode

        # They are the oldest: a connection that sends as many clients pays for its own requests only.
        return [*takewhile(is_former, self.shown), *takewhile(is_former, self.behind)]
