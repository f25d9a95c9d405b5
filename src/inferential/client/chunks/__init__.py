"""Action chunks on a robot: played at the control rate, asked for in time, merged where they overlap.

The mind is in `player`, `plan` and `latency`, which do no I/O; `runtime` joins it with a model handle.
"""

from __future__ import annotations

from inferential.client.chunks.plan import Merge, average
from inferential.client.chunks.player import ChunkStats, Starved
from inferential.client.chunks.runtime import AsyncChunkRuntime, ChunkRuntime

__all__ = ["AsyncChunkRuntime", "ChunkRuntime", "ChunkStats", "Merge", "Starved", "average"]
