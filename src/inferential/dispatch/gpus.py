"""How busy this machine's GPUs are, as NVIDIA's library says (NVML, by the extra `gpu`).

It is asked in a thread of its own, and only while someone looks: the library may take a second to begin.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from inferential.dispatch.base import GpuUse

_FRESH_S = 1.0


class Gpus:
    """The GPUs of this machine.

    Args:
        load: returns the library, begun; raises where there is none.
        clock: seconds.
        start: runs a function beside the caller.
    """

    def __init__(
        self,
        load: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._load = load or _load
        self._clock = clock
        self._start = start or _start
        self._nvml: Any = None
        self._found: tuple[GpuUse, ...] = ()
        self._by_process: dict[int, float] = {}
        self._read_at: float | None = None
        self._is_reading = self._is_missing = False

    def latest(self) -> tuple[GpuUse, ...]:
        """Returns what is known, () where nothing is yet, and has it read anew if it is older than a second."""
        found = self._found
        fresh = self._read_at is not None and self._clock() - self._read_at < _FRESH_S
        if not (self._is_missing or self._is_reading or fresh):
            self._is_reading = True
            self._start(self.read)
        return found

    def memory_mb(self, pid: int) -> float | None:
        """Returns what a process uses of all GPUs, as far as `latest` has read it; None: nothing, or not known."""
        return self._by_process.get(pid)

    def read(self) -> None:
        """Asks the library, and waits for it."""
        try:
            if self._nvml is None:
                self._nvml = self._load()
            devices = range(self._nvml.nvmlDeviceGetCount())
            self._found = tuple(_use_of(self._nvml, at) for at in devices)
            self._by_process = _by_process(self._nvml, devices)
        except Exception:  # the package, the driver or the device is missing, or has gone
            self._found, self._by_process = (), {}
            self._is_missing = self._nvml is None
        self._read_at = self._clock()
        self._is_reading = False


def _start(function: Callable[[], None]) -> None:
    threading.Thread(target=function, name="inferential-gpus", daemon=True).start()


def _load() -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _use_of(nvml: Any, index: int) -> GpuUse:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    percent = used_mb = None
    # A device that is partitioned (MIG) says neither as a whole.
    with contextlib.suppress(Exception):
        percent = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with contextlib.suppress(Exception):
        used_mb = nvml.nvmlDeviceGetMemoryInfo(handle).used / 1e6
    return GpuUse(index, name.decode() if isinstance(name, bytes) else str(name), percent, used_mb)


def _by_process(nvml: Any, devices: Iterable[int]) -> dict[int, float]:
    found: dict[int, float] = {}
    for index in devices:
        with contextlib.suppress(Exception):  # a device, or a driver, that does not say
            for one in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)):
                if one.usedGpuMemory is not None:
                    found[one.pid] = found.get(one.pid, 0.0) + one.usedGpuMemory / 1e6
    return found
