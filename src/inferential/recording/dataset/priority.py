"""Keeps the priority of a process, which a library would raise."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_TASKS = "/proc/self/task"


@contextlib.contextmanager
def priority_kept() -> Iterator[None]:
    """Gives this thread, and those that begin meanwhile, the scheduling that it had before.

    SVT-AV1's encoder sets itself and the thread that calls it to real-time priority 99 wherever it may, as root: what
    else runs on its cores, as a server and its robots, would stand still, and what is started later would inherit it.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    others = set(os.listdir(_TASKS)) - {str(threading.get_native_id())}
    try:
        yield
    finally:
        for thread in set(os.listdir(_TASKS)) - others:
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setscheduler(int(thread), policy, parameters)
