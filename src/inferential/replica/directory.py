"""The directory of the ipc sockets of a host's replicas, which only their user can enter.

It opens no socket for longer than to see whether one is listened to.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from pathlib import Path

_LISTENS_WITHIN_S = 30.0


def prepare(directory: Path) -> None:
    """Makes it where there is none, and removes the sockets of replicas that were killed.

    Raises:
        PermissionError: it is there, but others can enter it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()  # another user may have put a link there
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{directory}: expected a directory that only this user can enter (mode 700)")
    for path in directory.iterdir():
        with contextlib.suppress(OSError):  # another replica may have removed it
            if path.lstat().st_mtime < time.time() - _LISTENS_WITHIN_S and not _is_listened_to(path):
                path.unlink()


def _is_listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True
