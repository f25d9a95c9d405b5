"""Whether the event loop gets round to others."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Turns:
    """`async with Turns() as turns`: counts how often another task gets its turn meanwhile."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._take())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()

    async def _take(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)
