"""Large messages one after the other in the same memory, instead of each in pages that the kernel makes anew.

It changes no allocation but glibc's (Linux), and there only what a process does by itself in time.
"""

from __future__ import annotations

import numpy as np

# The largest block from which glibc learns (mallopt(3): M_MMAP_THRESHOLD, DEFAULT_MMAP_THRESHOLD_MAX), less its header.
_LARGEST_LESSON_BYTES = 31 * 1024 * 1024


def keep_what_is_freed() -> None:
    """Has malloc keep up to 62 MB that were freed for what comes next.

    glibc gives freed blocks back to the kernel that are larger than any before, at first those of 128 kB, and the next
    message of the same size pays for new pages: on the machine of `bench/results/ray.json` 0.15 ms of each 1 MB. It
    learns from each large block that is freed, and this is one; its pages are never touched.
    """
    np.empty(_LARGEST_LESSON_BYTES, np.uint8)
