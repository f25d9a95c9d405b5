"""Accepts the claim of robots to renew observations, as far as a robot that plays chunks can do that.

Such a robot sends a newer observation when it is asked for one, several for each answer. So it is read although its
request waits, and not held to its share (`EventPump`, `Accounting`): without a bound, a client that floods need only
claim it.
"""

from __future__ import annotations

RATE_HZ = 25.0
"""How often a robot may renew, each time it is asked or one of its requests has waited for `refresh_ms`."""
BURST = 10
REJECTED_S = 10.0
"""How long the claims of a client do not count after it has sent more."""


class Renewals:
    """The claims of each connection: a leaky bucket as in `rate_limits`, which a client that overflows it fills up."""

    def __init__(self) -> None:
        self._due: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def accepts(self, connection: int, now: float) -> bool:
        """Returns whether an observation counts as a renewal, as its connection says.

        Args:
            connection: its number.
            now: when it was received, in seconds of `time.monotonic()`.
        """
        due = max(self._due.get(connection, now), now)
        allowed_s, period_s = BURST / RATE_HZ, 1 / RATE_HZ
        early_s = due - now
        if allowed_s < early_s <= allowed_s + period_s:
            due = now + allowed_s + REJECTED_S
        self._due[connection] = min(due + period_s, now + allowed_s + REJECTED_S)
        return early_s <= allowed_s

    def forget(self, connection: int) -> None:
        """Forgets a connection that has ended."""
        self._due.pop(connection, None)
