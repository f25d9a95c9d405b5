"""The backends by one name, with Ray imported only where it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferential.dispatch.base import Dispatcher, DispatchResult
from inferential.dispatch.local import LocalDispatcher

if TYPE_CHECKING:
    from inferential.dispatch.ray.dispatcher import RayDispatcher

__all__ = ["DispatchResult", "Dispatcher", "LocalDispatcher", "RayDispatcher"]


def __getattr__(name: str) -> Any:
    if name != "RayDispatcher":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from inferential.dispatch.ray.dispatcher import RayDispatcher

    return RayDispatcher
