"""Keeps clients to their rates: says of each request whether it comes too soon, and when it would not."""

from __future__ import annotations

BURST_S = 0.1
"""How much earlier than by its rate a request may come: jitter of the network bunches requests."""
_ROUNDING_S = 1e-9


class RateLimits:
    """The rates of clients that have one.

    Each client has a time at which its next request is due by its rate; every request moves it by a period, and one
    that comes too long before it is refused and does not. (The generic cell rate algorithm, ITU-T I.371.)
    """

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def wait_s(self, client_id: str, max_rate_hz: float, now: float) -> float:
        """Takes a request of a client; returns how much later it should have come, in seconds: 0.0 if it may pass.

        Args:
            client_id: the client; there are as many as entries in the configuration.
            max_rate_hz: its rate.
            now: when the request arrived, in seconds of `time.monotonic()`.
        """
        due = max(self._due.get(client_id, now), now)
        early_s = due - now - BURST_S
        if early_s > _ROUNDING_S:
            return early_s
        self._due[client_id] = due + 1.0 / max_rate_hz
        return 0.0
