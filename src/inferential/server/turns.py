"""Does what takes long a part at a time, so that robots are served between the parts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator


def in_turns(steps: Iterator[None], loop: asyncio.AbstractEventLoop) -> None:
    """Takes the first of some steps, and each that follows in a turn of the loop of its own."""
    if next(steps, steps) is None:
        loop.call_soon(in_turns, steps, loop)
