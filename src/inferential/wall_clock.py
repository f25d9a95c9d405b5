"""The wall clock, as it goes into messages and files that others read. Nothing is decided by it."""

from __future__ import annotations

import time

_STAMPS_END = 2**64  # in 2554; below 0 is before 1970


def wall_ns() -> int:
    """Returns nanoseconds since 1970; 0, which says nothing, while the clock shows a time that no stamp has."""
    now_ns = time.time_ns()
    return now_ns if 0 < now_ns < _STAMPS_END else 0
