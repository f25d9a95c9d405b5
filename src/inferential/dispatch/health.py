"""Moving averages of the latency and errors of a model's calls, for people; no decision depends on them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class EndpointHealth:
    """Moving averages over a model's calls; both start from zero, so they need some calls to settle.

    Attributes:
        model_id: the model.
        avg_latency_ms: moving average of the latency of its calls, in milliseconds.
        error_rate: moving average of the share of calls that failed, 0 to 1.
        total_requests: calls so far.
        failures: calls so far that failed.
        last_error: text of the latest failure; None if there was none.
    """

    model_id: str
    avg_latency_ms: float = 0.0
    error_rate: float = 0.0
    total_requests: int = 0
    failures: int = 0
    last_error: str | None = None
    _alpha: float = field(default=0.2, repr=False)

    def update_all(self, latency_ms: float, count: int) -> None:
        """Adds so many calls at once, each of which took `latency_ms` milliseconds and returned a result."""
        if count == 1:
            self.update(latency_ms, True)
            return
        left = (1.0 - self._alpha) ** count
        self.total_requests += count
        self.avg_latency_ms = latency_ms + left * (self.avg_latency_ms - latency_ms)
        self.error_rate *= left

    def update(self, latency_ms: float, success: bool, error: str | None = None) -> None:
        """Adds one call.

        Args:
            latency_ms: its duration in milliseconds.
            success: whether it returned a result.
            error: text of the failure.
        """
        weight = self._alpha
        self.total_requests += 1
        self.avg_latency_ms += weight * (latency_ms - self.avg_latency_ms)
        if success:
            if self.error_rate:
                self.error_rate -= weight * self.error_rate
        else:
            self.failures += 1
            self.error_rate += weight * (1.0 - self.error_rate)
            self.last_error = error or f"call {self.total_requests} failed"
