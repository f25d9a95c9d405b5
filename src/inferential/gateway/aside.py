"""Reads and writes large messages of JSON in a process of its own.

A million numbers as text take a third of a second, in which Python does nothing else, in whichever thread: no robot
would be answered. The process is started by the first large message, and takes one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from inferential.gateway.aside_process import receive, send
from inferential.gateway.refusals import RequestRefused
from inferential.proto.value_limits import SMALL_BYTES

logger: logging.Logger = logging.getLogger("inferential.gateway")

_END_S = 5.0
_FoundT = TypeVar("_FoundT")


class Aside:
    """Calls functions that read or write messages: here, or in the process where a message is large."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gateway-aside")  # which waits for the process, one call at a time
        self._process: subprocess.Popen[bytes] | None = None

    async def call(self, size: int, function: Callable[..., _FoundT], *arguments: object) -> _FoundT:
        """Returns what a function of a module returns; raises what it raises.

        Args:
            size: of the message in bytes, about.
            function, arguments: what is called.

        Raises:
            RequestRefused: the process has ended with this message, as where no memory is left for it.
        """
        if size <= SMALL_BYTES:
            return function(*arguments)
        given = tuple(pickle.PickleBuffer(one) if isinstance(one, bytearray) else one for one in arguments)
        has_returned, found = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, function, given)
        if not has_returned:
            try:
                raise found
            finally:
                del found, given, arguments  # else the error, whose traceback has this frame, would keep the message
        value: _FoundT = found
        return value

    def _ask(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[bool, Any]:
        try:
            process = self._process = self._process or _started()
            send(cast(BinaryIO, process.stdin), True, (function, arguments))
            return receive(cast(BinaryIO, process.stdout))
        except (OSError, EOFError, MemoryError) as error:  # what is under way would be taken for the next answer
            logger.error("the process that reads and writes large JSON has ended: %s", error)
            self._end()
            text = "the process that reads and writes large JSON ended with this request; send arrays in another form"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, text) from error

    async def close(self) -> None:
        """Ends the process. Idempotent."""
        if self._process is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown(wait=False)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError), process:  # closes its streams, by which it ends
            try:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def size_of(value: Any) -> int:
    """Returns about how many bytes of memory the arrays and texts of an answer have."""
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list):
        return 8 * len(value) + sum(size_of(one) for one in value if isinstance(one, dict | list))
    return value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, str) else 0


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "inferential.gateway.aside_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        process_group=0,  # Ctrl-C is for the server, which then drains
    )
