"""Keeps file descriptors for robots: other services take no connection where few are left.

`transport.acceptance` does what is to be done for robots when none is left.
"""

from __future__ import annotations

import os
import sys

SHARE = 0.75
"""Of the descriptors that the process may have, the part that pages and gateways may use up."""

if sys.platform == "win32":

    def is_scarce(fd: int) -> bool:
        """Returns False: there is no such limit."""
        return False

else:
    import resource

    def is_scarce(fd: int) -> bool:
        """Returns whether few descriptors are left, by the number of one that was just opened: it is the lowest free
        one (POSIX, "File Descriptor Allocation")."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return limit != resource.RLIM_INFINITY and fd >= limit * SHARE


def are_scarce() -> bool:
    """Returns the same where nothing was opened just now, by opening something."""
    try:
        probe = os.open(os.devnull, os.O_RDONLY)
    except OSError:  # none is left at all
        return True
    os.close(probe)
    return is_scarce(probe)
