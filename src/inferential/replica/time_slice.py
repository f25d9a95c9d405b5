"""A short time slice for threads that others wait for, so that they run as soon as they wake where all cores are busy.

Linux 6.12 and newer (sched(7), sched_setattr(2)): a thread that wakes interrupts the one that runs if it has asked for
the shorter slice; else that one keeps its core until the first timer tick after the end of its own, up to 4 ms later.
What a thread gets of the processor in all stays the same.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any

SHORT_NS = 100_000  # the least that there is
DEFAULT_NS = 0
_GET, _SET = {"x86_64": (315, 314), "aarch64": (275, 274), "riscv64": (275, 274)}.get(platform.machine(), (0, 0))
_RESET_ON_FORK = 1  # threads and processes that it starts have the slice of all others


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def set_slice(thread_id: int, nanoseconds: int) -> bool:
    """Asks for a time slice; returns whether the system has taken it. One that has none to set is left as it is.

    So is one that comes before others (a nice value below 0): what it starts would not any more.

    Args:
        thread_id: of a thread of this user, as the system counts; 0: the one that calls.
        nanoseconds: SHORT_NS, or DEFAULT_NS for what others have.
    """
    attributes = _attributes(thread_id)
    if attributes is None or attributes.policy != 0 or attributes.nice < 0:
        return False  # gone, or of a policy that has no slices to choose
    attributes.runtime = nanoseconds
    attributes.flags |= _RESET_ON_FORK
    return not _system_call(_SET, thread_id, ctypes.byref(attributes), 0)


def slice_of(thread_id: int) -> int | None:
    """Returns a thread's time slice in nanoseconds; None where the system does not say."""
    attributes = _attributes(thread_id)
    return None if attributes is None else int(attributes.runtime) or None


def _attributes(thread_id: int) -> _Attributes | None:
    attributes = _Attributes(size=ctypes.sizeof(_Attributes))
    if sys.platform != "linux" or not _GET:
        return None
    failed = _system_call(_GET, thread_id, ctypes.byref(attributes), ctypes.sizeof(_Attributes), 0)
    return None if failed else attributes


def _system_call(number: int, thread_id: int, attributes: Any, *numbers: int) -> int:
    call = ctypes.CDLL(None).syscall
    found: int = call(ctypes.c_long(number), ctypes.c_long(thread_id), attributes, *map(ctypes.c_long, numbers))
    return found
