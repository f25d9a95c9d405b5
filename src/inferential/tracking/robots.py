"""The clients that there are.

It knows nothing of rhythm and responses.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from inferential.tracking.limits import MAX_MODELS


@dataclass(slots=True)
class ClientState:
    """One client. Times are seconds of `time.monotonic()`.

    Attributes:
        client_id: its id.
        client_type: what it last said it is.
        identity: the ZeroMQ routing id that it last spoke from.
        first_seen: when its first observation came.
        last_seen: when its last observation came.
        total_requests: its observations, the first included.
        model_ids: the models that it asked, 64 at most.
    """

    client_id: str
    client_type: str = ""
    identity: bytes = b""
    first_seen: float = field(default_factory=lambda: time.monotonic())
    last_seen: float = field(default_factory=lambda: time.monotonic())
    total_requests: int = 0
    model_ids: set[str] = field(default_factory=set)


class ClientRegistry:
    """Clients by id."""

    def __init__(self) -> None:
        self._clients: dict[str, ClientState] = {}

    def on_observation(
        self,
        client_id: str,
        model_id: str,
        client_type: str = "",
        identity: bytes = b"",
        now: float | None = None,
    ) -> bool:
        """Notes an observation; True if the client is new."""
        now = time.monotonic() if now is None else now
        state = self._clients.get(client_id)
        is_new = state is None
        if state is None:
            state = self._clients[client_id] = ClientState(client_id, client_type, identity, now, now)
        state.last_seen = now
        state.total_requests += 1
        state.client_type = client_type or state.client_type
        state.identity = identity or state.identity
        if len(state.model_ids) < MAX_MODELS:
            state.model_ids.add(model_id)
        return is_new

    def get(self, client_id: str) -> ClientState | None:
        """A client, None if it is unknown."""
        return self._clients.get(client_id)

    def forget(self, client_id: str) -> None:
        """Drops a client."""
        self._clients.pop(client_id, None)

    @property
    def active_count(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    @property
    def all_clients(self) -> dict[str, ClientState]:
        """All clients by id, a copy."""
        return self._clients.copy()
