"""Backends: where a model runs, behind one interface."""

from inferential.dispatch.base import Dispatcher, DispatchResult
from inferential.dispatch.health import EndpointHealth
from inferential.dispatch.local import LocalDispatcher

__all__ = ["DispatchResult", "Dispatcher", "EndpointHealth", "LocalDispatcher"]
