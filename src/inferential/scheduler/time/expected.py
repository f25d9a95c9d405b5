"""When the clients of a model are expected to ask next, and how far from it they asked lately.

It learns no cadence, which requests bring (`InferenceRequest.time_until_next`), and has no clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict

MAX_CLIENTS = 64
"""With more of them, the moment of one request says little; then nothing is expected."""
_FOLLOWS = 0.1  # by which the mean deviation follows each request
_MOST_OFF_S = 1.0
_ALIKE = 1.1  # times the shortest
_MARGIN = 3.0  # times the mean deviation, within which almost all requests come
_LEAST_S = 1e-3  # after the expected moment, for rounding and for the request's own way


class Expected:
    """The next requests of one model's clients."""

    __slots__ = ("_clients", "off_s")

    def __init__(self) -> None:
        self._clients: OrderedDict[str, tuple[float, float, float]] = OrderedDict()  # when, with which time and weight
        self.off_s: float = math.inf
        """How many seconds before or after the expected moment requests came, on average; infinite: not known."""

    def note(self, client_id: str, now: float, next_in_s: float, time_s: float, weight: float) -> None:
        """Notes a request of a client, which asks again in `next_in_s` (0: not known) with as much time and weight."""
        known = self._clients.pop(client_id, None)
        if known is not None:
            off_s = min(abs(now - known[0]), _MOST_OFF_S)
            self.off_s = off_s if self.off_s == math.inf else self.off_s + _FOLLOWS * (off_s - self.off_s)
        if next_in_s > 0:
            self._clients[client_id] = now + next_in_s, time_s, weight
            if len(self._clients) > MAX_CLIENTS:
                self.off_s = math.inf
                self._clients.popitem(last=False)

    def forget(self, client_id: str) -> None:
        """Expects nothing more of a client."""
        self._clients.pop(client_id, None)

    def are_alike(self) -> bool:
        """Returns whether all clients weigh the same and want their answers within about the same time."""
        times = [time_s for _, time_s, _ in self._clients.values()]
        is_even = len({weight for _, _, weight in self._clients.values()}) <= 1
        return is_even and (not times or max(times) <= _ALIKE * min(times))

    def clear_from(self, now: float, lasts_s: float) -> float:
        """Returns from when on no request is expected for so many seconds; some come a few times `off_s` too early."""
        margin_s = max(_MARGIN * self.off_s, _LEAST_S)
        for at in sorted(at for at, _, _ in self._clients.values() if at + margin_s > now):
            if at - margin_s >= now + lasts_s:
                break
            now = at + margin_s
        return now

    def coming(self, now: float, until: float) -> list[tuple[float, float]]:
        """Returns when requests are expected until then, and their deadlines.

        One that is overdue is expected for about as long as others were off, a little later each time.
        """
        least, overdue = now + max(self.off_s, _LEAST_S), now - 2 * self.off_s - _LEAST_S
        return [(max(at, least), at + time_s) for at, time_s, _ in self._clients.values() if overdue < at <= until]
