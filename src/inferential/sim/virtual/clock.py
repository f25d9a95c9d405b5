"""Virtual time: a clock that is set by hand, in place of the one that schedulers and policies read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

BEGIN_S = 1000.0
"""What the clock says at the beginning; strategies may take 0 for "never"."""


class Clock:
    """Returns the time that it was set to."""

    def __init__(self) -> None:
        self.now: float = BEGIN_S

    def __call__(self) -> float:
        return self.now


@contextmanager
def virtual_time() -> Iterator[Clock]:
    """Makes `time.monotonic()` return virtual time, which every scheduler and policy reads."""
    clock, module = Clock(), vars(time)
    real = module["monotonic"]
    module["monotonic"] = clock
    try:
        yield clock
    finally:
        module["monotonic"] = real
