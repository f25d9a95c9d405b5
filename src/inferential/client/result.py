"""What a robot gets back, and what its connection counts.

No I/O here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inferential.proto.messages import ResponseTiming


class Result(dict[str, Any]):
    """One result: tensors and metadata by key, and `response_id`, `model_id`, `inference_latency_ms`.

    Arrays are writable views on the received message.

    Attributes:
        request_id: what `observe` returned for the observation that this answers (0: an unknown one, from a
            server of the 1.x line).
        age_ms: how long before its arrival the observation was made; nan where it is not known.
        timing: where the time went on the server; None from a server of the 1.x line.
        serve_interval_ms: the shortest interval at which the server can serve this client just now; 0 where it knows
            no limit. Observing more often than that only has observations superseded.
        model_version: of the model that made it; empty where the server does not know.
    """

    __slots__ = ("age_ms", "model_version", "request_id", "serve_interval_ms", "timing")

    def __init__(
        self,
        values: dict[str, Any],
        *,
        request_id: int,
        age_ms: float,
        timing: ResponseTiming | None,
        serve_interval_ms: float = 0.0,
        model_version: str = "",
    ) -> None:
        super().__init__(values)
        self.request_id = request_id
        self.age_ms = age_ms
        self.timing = timing
        self.serve_interval_ms = serve_interval_ms
        self.model_version = model_version


@dataclass(slots=True)
class ClientStats:
    """What became of a connection's observations and of the responses to them."""

    observed: int = 0
    """Observations made."""
    results: int = 0
    """Results received."""
    refused: int = 0
    """Errors received, superseded requests not counted."""
    superseded: int = 0
    """Requests that gave way to a newer observation, on the server or before they were sent."""
    replaced_unsent: int = 0
    """Those of them that were never sent, because the server could not be reached."""
    dropped_unsent: int = 0
    """Observations of `queue="all"` that were given up while the server could not be reached."""
    outdated: int = 0
    """Results that nobody took before a newer one came, or that came after a newer one."""
    unmatched: int = 0
    """Responses to requests that nobody waits for any more, or that are no response at all."""
