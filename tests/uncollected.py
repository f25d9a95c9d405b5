"""Runs without the garbage collector, which comes rarely to a server that is not busy: what is free is so by itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """What is left in a circle by then is freed before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
