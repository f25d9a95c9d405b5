"""Tracks clients: which are connected, their cadences, and what becomes of their requests."""

from inferential.tracking.cadence import CadenceTracker
from inferential.tracking.fleet import ClientUpdate, Fleet, FleetChanges
from inferential.tracking.response import ResponseRecord, ResponseState, ResponseTracker
from inferential.tracking.robots import ClientRegistry, ClientState

__all__ = [
    "CadenceTracker",
    "ClientRegistry",
    "ClientState",
    "ClientUpdate",
    "Fleet",
    "FleetChanges",
    "ResponseRecord",
    "ResponseState",
    "ResponseTracker",
]
