"""Tells whether the system lets gRPC start: where it does not, gRPC's core ends the process and every robot with it.

(grpcio 1.85.3, which aborts where a thread, a descriptor or memory of its own is refused. A server of it takes 7
threads, 7 descriptors and 500 MiB of address space; each connection a descriptor more.)
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack

from inferential.server.service import NoRoom

THREADS, DESCRIPTORS, ADDRESS_BYTES = 16, 32, 640 * 1024 * 1024
"""What has to be left, with some to spare: gRPC takes a little more when it is asked much."""


def check_room(section: str) -> None:
    """Requires that the process may have what gRPC takes; it is tried, and given back.

    Args:
        section: of the gateway, for the error.

    Raises:
        NoRoom: naming what is not left, and the remedy.
    """
    tried: tuple[tuple[Callable[[ExitStack], object], str], ...] = (
        (_open_descriptors, f"{DESCRIPTORS} file descriptors are not left: raise the limit of open files (ulimit -n)"),
        (_map_memory, f"{ADDRESS_BYTES >> 20} MiB of address space are not left: raise its limit (ulimit -v)"),
        (_start_threads, f"{THREADS} threads cannot be started: raise the limit of processes (ulimit -u, pids.max)"),
    )
    for take, lacking in tried:
        with ExitStack() as taken:
            try:
                take(taken)
            except (OSError, RuntimeError, MemoryError) as error:
                raise NoRoom(f"{section}: gRPC is not started, and its robots are not served: {lacking}") from error


def _open_descriptors(taken: ExitStack) -> None:
    for _ in range(DESCRIPTORS):
        taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _map_memory(taken: ExitStack) -> None:
    if sys.platform != "win32":  # where nothing limits it
        # Pages that cannot be touched are counted as address space, and never as memory that is promised.
        taken.enter_context(mmap.mmap(-1, ADDRESS_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0))


def _start_threads(taken: ExitStack) -> None:
    end = threading.Event()
    for number in range(THREADS):
        thread = threading.Thread(target=end.wait, name=f"room-for-grpc-{number}", daemon=True)
        thread.start()
        taken.callback(thread.join)
        taken.callback(end.set)  # before each is waited for
