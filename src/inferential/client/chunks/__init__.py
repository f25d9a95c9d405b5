"""Action chunks on a robot: played at the control rate, requested in time, merged where they overlap.

`player`, `plan` and `latency` decide and do no I/O; `runtime` connects them with a model handle.
"""

from __future__ import annotations

from inferential.client.chunks.motion import OnStarved, Starved
from inferential.client.chunks.plan import Merge, average
from inferential.client.chunks.runtime import AsyncChunkRuntime, ChunkRuntime
from inferential.client.chunks.stats import ChunkStats
from inferential.proto.actions import ActionSpec

__all__ = [
    "ActionSpec",
    "AsyncChunkRuntime",
    "ChunkRuntime",
    "ChunkStats",
    "Merge",
    "OnStarved",
    "Starved",
    "average",
]
