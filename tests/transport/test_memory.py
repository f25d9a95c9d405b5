"""Freed memory that stays with the process, so that the next large message needs no new pages."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from inferential.transport.memory import raise_mmap_threshold

PROGRAM = """
import resource, sys
import numpy as np, psutil
from inferential.transport.memory import raise_mmap_threshold

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(size, np.uint8)[:] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

process = psutil.Process()
raise_mmap_threshold()
faults(8 << 20)
print(faults(8 << 20))
before = process.memory_info().rss
for size in np.random.default_rng(1).integers(1 << 20, 31 << 20, 60):
    np.empty(size, np.uint8)[:] = 1
print((process.memory_info().rss - before) / 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_pages_of_large_messages_are_used_again_and_no_more_than_62_mib_are_kept() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    faults, kept_mib = map(float, done.stdout.split())
    assert faults < 2048  # 20 times 8 MiB are 40960 new pages
    assert kept_mib < 62


def test_a_server_that_may_have_little_memory_starts_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", fail)
    raise_mmap_threshold()
