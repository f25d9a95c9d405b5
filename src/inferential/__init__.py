"""Inferential: shared policies served to fleets of robots, with actions that arrive in time and are fresh.

Each name is imported when it is first used: a robot needs nothing of the server, and a worker process little of either.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferential.client import AsyncConnection, AsyncModel, Connection, Jpeg, Model, Png, Result
    from inferential.dispatch.local import LocalDispatcher
    from inferential.errors import (
        InferenceError,
        InvalidObservation,
        ModelFailed,
        RequestExpired,
        RequestRejected,
        RequestSuperseded,
        UnknownModel,
    )
    from inferential.replica.spec import ModelInline, ModelProcess, ModelThread
    from inferential.scheduler.base import register_policy
    from inferential.scheduler.request import InferenceRequest
    from inferential.server import Server

    __version__: str

__all__ = [
    "AsyncConnection",
    "AsyncModel",
    "Connection",
    "InferenceError",
    "InferenceRequest",
    "InvalidObservation",
    "Jpeg",
    "LocalDispatcher",
    "Model",
    "ModelFailed",
    "ModelInline",
    "ModelProcess",
    "ModelThread",
    "Png",
    "RequestExpired",
    "RequestRejected",
    "RequestSuperseded",
    "Result",
    "Server",
    "UnknownModel",
    "__version__",
    "register_policy",
]

_CLIENT_SIDE = {
    "inferential.client": ("AsyncConnection", "AsyncModel", "Connection", "Jpeg", "Model", "Png", "Result"),
    "inferential.errors": (
        "InferenceError",
        "InvalidObservation",
        "ModelFailed",
        "RequestExpired",
        "RequestRejected",
        "RequestSuperseded",
        "UnknownModel",
    ),
}
_SERVER_SIDE = {
    "InferenceRequest": "inferential.scheduler.request",
    "LocalDispatcher": "inferential.dispatch.local",
    "ModelInline": "inferential.replica.spec",
    "ModelProcess": "inferential.replica.spec",
    "ModelThread": "inferential.replica.spec",
    "Server": "inferential.server",
    "register_policy": "inferential.scheduler.base",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("inferential")
    for module, names in _CLIENT_SIDE.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
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
