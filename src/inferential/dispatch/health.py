"""How a model's endpoint has been doing lately.

An observer: nothing is decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class EndpointHealth:
    """Moving averages over a model's calls; the first sample sets the average.

    Attributes:
        model_id: which model.
        avg_latency_ms: moving average of the latency of its calls.
        error_rate: moving share of calls that failed, 0 to 1.
        total_requests: calls so far.
        last_error: what the latest failure said, None if there was none.
    """

    model_id: str
    avg_latency_ms: float = 0.0
    error_rate: float = 0.0
    total_requests: int = 0
    last_error: str | None = None
    _alpha: float = field(default=0.2, repr=False)

    def update(self, latency_ms: float, success: bool, error: str | None = None) -> None:
        """Takes in one call.

        Args:
            latency_ms: how long it took.
            success: whether it gave a result.
            error: what the failure said.
        """
        weight = self._alpha if self.total_requests else 1.0
        self.total_requests += 1
        self.avg_latency_ms += weight * (latency_ms - self.avg_latency_ms)
        if success:
            if self.error_rate:
                self.error_rate -= weight * self.error_rate
        else:
            self.error_rate += weight * (1.0 - self.error_rate)
            self.last_error = error or f"call {self.total_requests} failed"
