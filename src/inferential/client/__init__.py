"""The robot SDK: connections, model handles and what they return.

It needs protobuf and numpy, and imports nothing of the server.
"""

from __future__ import annotations

from inferential.client.adaptive import Auto
from inferential.client.aio import AsyncConnection, AsyncModel
from inferential.client.chunks import ActionSpec, AsyncChunkRuntime, ChunkRuntime, ChunkStats, average
from inferential.client.encoding import Jpeg, Png
from inferential.client.model import Model
from inferential.client.result import ClientStats, Result
from inferential.client.sync import Connection

__all__ = [
    "ActionSpec",
    "AsyncChunkRuntime",
    "AsyncConnection",
    "AsyncModel",
    "Auto",
    "ChunkRuntime",
    "ChunkStats",
    "ClientStats",
    "Connection",
    "Jpeg",
    "Model",
    "Png",
    "Result",
    "average",
]
