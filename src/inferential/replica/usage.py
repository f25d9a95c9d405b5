"""What a process uses, as Linux says in /proc; read when asked for, never polled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_MEGABYTE = 1_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME, _RSS = 11, 12, 21  # fields of /proc/PID/stat after the name, proc_pid_stat(5)


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What a process uses.

    Attributes:
        memory_mb: resident memory.
        cpu_s: CPU time since it started.
    """

    memory_mb: float
    cpu_s: float


def use_of(pid: int) -> ProcessUse | None:
    """Returns what a process uses; None where it has ended or the platform does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    cpu_s = (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S
    return ProcessUse(int(fields[_RSS]) * _PAGE_BYTES / _MEGABYTE, cpu_s)
