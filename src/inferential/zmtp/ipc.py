"""The addresses of Unix sockets."""

from __future__ import annotations

import os

MAX_PATH_BYTES = 107
"""The longest path of a Unix socket, in bytes."""


def socket_path(path: str) -> str:
    """Returns the system's address for ipc://PATH; a leading @ means the abstract namespace, as in libzmq."""
    return "\0" + path[1:] if path.startswith("@") else path


def path_bytes(path: str) -> int:
    """Returns how many bytes the PATH of ipc://PATH has."""
    return len(os.fsencode(path))
