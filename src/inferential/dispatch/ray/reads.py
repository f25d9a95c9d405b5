"""Reads of the nodes' figures beside the calls, in threads: none of them may delay or end what robots get."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from inferential.dispatch.base import NodeUse

logger: logging.Logger = logging.getLogger("inferential.ray")


class Reads:
    """The reads that are on their way; iterating gives their tasks."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(self._tasks)

    def begin(self, work: Callable[[], list[NodeUse]], take: Callable[[list[NodeUse]], None]) -> None:
        """Runs `work` in a thread, and then `take` with its result on the event loop; what fails is logged."""

        async def read() -> None:
            try:
                take(await asyncio.get_running_loop().run_in_executor(None, work))
            except Exception as error:  # what a person sees must not hurt what robots get
                logger.warning("Ray's metrics cannot be read: %s", error)

        task = asyncio.get_running_loop().create_task(read())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
