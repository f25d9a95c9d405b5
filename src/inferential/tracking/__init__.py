"""Clients over time: who is there, in what rhythm, and what becomes of the responses to them."""

from inferential.tracking.cadence import CadenceTracker
from inferential.tracking.fleet import Fleet, FleetChanges, Sighting
from inferential.tracking.response import ResponseRecord, ResponseState, ResponseTracker
from inferential.tracking.robots import ClientRegistry, ClientState

__all__ = [
    "CadenceTracker",
    "ClientRegistry",
    "ClientState",
    "Fleet",
    "FleetChanges",
    "ResponseRecord",
    "ResponseState",
    "ResponseTracker",
    "Sighting",
]
