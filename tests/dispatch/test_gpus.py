"""What a library like NVML says of GPUs, and that one which is missing is asked once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from inferential.dispatch.gpus import Gpus


class Nvml:
    """Two devices, of which the second says nothing of its use."""

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return [b"NVIDIA H200", "NVIDIA A30"][handle]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle:
            raise RuntimeError("not supported")
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if handle:
            raise RuntimeError("not supported")
        return SimpleNamespace(used=2_500_000_000)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        own = SimpleNamespace(pid=7, usedGpuMemory=[1_500_000_000, 500_000_000][handle])
        return [own, SimpleNamespace(pid=8, usedGpuMemory=None)]


def test_devices_are_read_and_what_one_does_not_say_is_none() -> None:
    gpus = Gpus(Nvml)
    gpus.read()
    first, second = gpus.latest()
    assert (first.index, first.name, first.utilisation_percent, first.memory_used_mb) == (0, "NVIDIA H200", 37, 2500)
    assert (second.name, second.utilisation_percent, second.memory_used_mb) == ("NVIDIA A30", None, None)


def test_the_memory_of_a_process_is_that_on_all_devices_and_none_where_it_is_not_known() -> None:
    gpus = Gpus(Nvml)
    gpus.read()
    assert [gpus.memory_mb(pid) for pid in (7, 8, 9)] == [2000.0, None, None]


def test_a_library_that_is_missing_is_asked_once() -> None:
    asked = []

    def load() -> Any:
        asked.append(1)
        raise ImportError("No module named 'pynvml'")

    gpus = Gpus(load)
    gpus.read()
    assert gpus.latest() == ()
    assert gpus.latest() == ()
    assert len(asked) == 1


def test_figures_are_read_anew_after_a_second_beside_the_caller() -> None:
    now, started = [0.0], []
    gpus = Gpus(Nvml, lambda: now[0], started.append)
    assert gpus.latest() == gpus.latest() == ()
    assert len(started) == 1
    started[0]()
    assert len(gpus.latest()) == 2
    assert len(started) == 1
    now[0] = 1.5
    assert len(gpus.latest()) == 2
    assert len(started) == 2
