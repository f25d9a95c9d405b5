"""Inferential serves shared policies to fleets of robots: actions arrive in time and are fresh.

Names are imported when they are first used: a robot needs nothing of a server, and the command line prints its help
without numpy.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from inferential.errors import (
    BatchFailed,
    InferenceError,
    InferentialError,
    InvalidChunk,
    InvalidObservation,
    ModelFailed,
    ModelFailing,
    ModelLoading,
    ObservationOutdated,
    RequestExpired,
    RequestRejected,
    RequestSuperseded,
    UnknownModel,
)

if sys.version_info < (3, 11):
    from inferential.old_python import refuse_server

    refuse_server()

if TYPE_CHECKING:
    from inferential.client import AsyncConnection, AsyncModel, Auto, Connection, Jpeg, Model, Png, Result
    from inferential.dispatch.local import LocalDispatcher
    from inferential.observation.slots import ObservationError
    from inferential.replica.spec import ModelInline, ModelProcess, ModelThread
    from inferential.scheduler.base import QueueFullError, register_policy
    from inferential.scheduler.request import InferenceRequest
    from inferential.server import Server

    __version__: str

__all__ = [
    "AsyncConnection",
    "AsyncModel",
    "Auto",
    "BatchFailed",
    "Connection",
    "InferenceError",
    "InferenceRequest",
    "InferentialError",
    "InvalidChunk",
    "InvalidObservation",
    "Jpeg",
    "LocalDispatcher",
    "Model",
    "ModelFailed",
    "ModelFailing",
    "ModelInline",
    "ModelLoading",
    "ModelProcess",
    "ModelThread",
    "ObservationError",
    "ObservationOutdated",
    "Png",
    "QueueFullError",
    "RequestExpired",
    "RequestRejected",
    "RequestSuperseded",
    "Result",
    "Server",
    "UnknownModel",
    "__version__",
    "register_policy",
]

_CLIENT_SIDE = ("AsyncConnection", "AsyncModel", "Auto", "Connection", "Jpeg", "Model", "Png", "Result")
_SERVER_SIDE = {
    "InferenceRequest": "inferential.scheduler.request",
    "LocalDispatcher": "inferential.dispatch.local",
    "ModelInline": "inferential.replica.spec",
    "ModelProcess": "inferential.replica.spec",
    "ModelThread": "inferential.replica.spec",
    "ObservationError": "inferential.observation.slots",
    "QueueFullError": "inferential.scheduler.base",
    "Server": "inferential.server",
    "register_policy": "inferential.scheduler.base",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("inferential")
    if name in _CLIENT_SIDE:
        value = globals()[name] = getattr(importlib.import_module("inferential.client"), name)
        return value
    if name not in _SERVER_SIDE:
        raise AttributeError(f"module 'inferential' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_SERVER_SIDE[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "inferential":
            raise
        raise ImportError(
            f"inferential.{name} needs {error.name}, which is not installed: pip install 'inferential[edge]' for a "
            "server with in-process models, 'inferential[server]' for one on Ray Serve"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
