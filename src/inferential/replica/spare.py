"""A worker process in waiting: started, and its modules imported, before the one ends that it will follow."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from inferential.replica.spawn import Spawned, why_not
from inferential.replica.stream import write_message
from inferential.replica.wire import NO_CALL, PREPARE

logger: logging.Logger = logging.getLogger("inferential.replica")


class Spare:
    """At most one such process.

    Args:
        start: starts a process.
        settings: what it must know to import the modules of its model.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, Spawned]], settings: Mapping[str, Any]) -> None:
        self._start = start
        self._message = json.dumps(dict(settings)).encode()
        self._waiting: Spawned | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closed = False

    def prepare(self) -> None:
        """Starts the process, unless there is one."""
        self._closed = False
        if self._waiting is None and self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._prepare())

    async def _prepare(self) -> None:
        spawned: Spawned | None = None
        try:
            spawned = await self._start()
            for buffer in write_message([NO_CALL, PREPARE, self._message]):
                spawned.connected.sendall(buffer)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: no thread can be started
            logger.warning("no spare process can be started: %s", why_not(error))
            if spawned is not None:  # it has ended already
                spawned.discard()
            return
        finally:
            self._starting = None
        spawned.give_room()
        if self._closed:
            spawned.discard()
        else:
            self._waiting = spawned

    async def take(self) -> Spawned:
        """Returns the process that waits; a new one where none does.

        Raises:
            OSError: none can be started.
        """
        if self._starting is not None:
            await self._starting
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return await self._start()
        if waiting.process.poll() is not None:
            waiting.discard()
            return await self._start()
        waiting.take_room()
        return waiting

    async def close(self) -> None:
        """Ends the process. Twice is fine."""
        self._closed = True
        if self._starting is not None:
            await self._starting
        if self._waiting is not None:
            self._waiting.discard()
            self._waiting = None
