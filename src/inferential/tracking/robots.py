"""The registry of connected clients."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from inferential.tracking.limits import MAX_MODELS

COMMANDS = "inferential "
"""How the types begin of clients that are commands, as `inferential call`: they come and go, and are no robots."""


@dataclass(slots=True)
class ClientState:
    """One client. Times are seconds of `time.monotonic()`.

    Attributes:
        client_id: its id.
        client_type: the kind of robot, as it last stated it.
        identity: the ZeroMQ routing id that its last observation came from.
        first_seen: arrival of its first observation.
        last_seen: arrival of its last observation.
        total_requests: its observations so far.
        model_ids: the models that it has asked, at most 64.
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
        """Records an observation; returns whether the client is new."""
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
        """Returns a client; None if it is not connected."""
        return self._clients.get(client_id)

    def forget(self, client_id: str) -> None:
        """Drops a client."""
        self._clients.pop(client_id, None)

    @property
    def active_count(self) -> int:
        """Number of connected clients."""
        return len(self._clients)

    @property
    def all_clients(self) -> dict[str, ClientState]:
        """All connected clients by id, longest connected first; a copy."""
        return self._clients.copy()
