"""Lets the allocator reuse the memory of large messages, instead of mapping new pages for each.

It changes no allocator but glibc's (Linux), and only in a way that a process would reach by itself in time.
"""

from __future__ import annotations

import contextlib

import numpy as np

# The largest block that raises glibc's threshold (mallopt(3): M_MMAP_THRESHOLD, DEFAULT_MMAP_THRESHOLD_MAX), less its
# header.
_MAX_THRESHOLD_BYTES = 31 * 1024 * 1024


def raise_mmap_threshold() -> None:
    """Raises glibc's dynamic mmap threshold to its maximum; up to 62 MB of freed memory stay with the process.

    glibc returns freed blocks above the threshold, at first 128 kB, to the kernel, and the next message of that size
    needs new pages: on the machine of `bench/results/ray.json`, 0.15 ms for each 1 MB. Freeing a large block raises the
    threshold, and this is one; its pages are never touched.
    """
    with contextlib.suppress(MemoryError):  # the process may have little: its messages need new pages, that is all
        np.empty(_MAX_THRESHOLD_BYTES, np.uint8)
