"""What the Open Inference Protocol counts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inferential.gateway.kserve.models import ServedModel
from inferential.proto.messages import ResponseTiming


@dataclass(slots=True)
class Statistics:
    """What `GET /v2/models/M/stats` counts of one model; durations in nanoseconds."""

    rows: int = 0
    requests: int = 0
    failures: int = 0
    failed_ns: int = 0
    success_ns: int = 0
    queue_ns: int = 0
    infer_ns: int = 0
    last_ms: int = 0
    by_batch: dict[int, tuple[int, int]] = field(default_factory=dict)

    def note(self, timings: Sequence[ResponseTiming], took_ns: int, now_ms: int) -> None:
        """Counts an answered request.

        Args:
            timings: of its rows.
            took_ns: how long it took.
            now_ms: in milliseconds since 1970.
        """
        self.requests += 1
        self.rows += len(timings)
        self.success_ns += took_ns
        self.last_ms = now_ms
        for one in timings:
            self.queue_ns += int(one.queue_ms * 1e6)
            self.infer_ns += int(one.inference_ms * 1e6)
            count, ns = self.by_batch.get(one.batch_size, (0, 0))
            self.by_batch[one.batch_size] = count + 1, ns + int(one.inference_ms * 1e6)

    def note_failure(self, took_ns: int) -> None:
        """Counts a request that ended in an error."""
        self.failures += 1
        self.failed_ns += took_ns

    def as_dict(self, model: ServedModel) -> dict[str, Any]:
        """Returns the entry of `model_stats`."""
        nothing = {"count": 0, "ns": 0}
        calls = {size: (-(-count // size), ns // size) for size, (count, ns) in self.by_batch.items() if size}
        return {
            "name": model.name,
            "version": model.version,
            "last_inference": self.last_ms,
            "inference_count": self.rows,
            "execution_count": sum(count for count, _ in calls.values()),
            "inference_stats": {
                "success": {"count": self.requests, "ns": self.success_ns},
                "fail": {"count": self.failures, "ns": self.failed_ns},
                "queue": {"count": self.rows, "ns": self.queue_ns},
                "compute_input": {"count": self.rows, "ns": 0},
                "compute_infer": {"count": self.rows, "ns": self.infer_ns},
                "compute_output": {"count": self.rows, "ns": 0},
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": {"count": count, "ns": 0},
                    "compute_infer": {"count": count, "ns": ns},
                    "compute_output": {"count": count, "ns": 0},
                }
                for size, (count, ns) in sorted(calls.items())
            ],
        }
