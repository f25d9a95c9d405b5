"""How often a cache was of use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CacheCounts:
    """Counts the messages that a cache served and those that took the slow path."""

    hits: int = 0
    """Messages of which only the varying part was written or read."""
    misses: int = 0
    """Messages that were written or read whole."""
