"""A listening socket for an address of ZeroMQ's: tcp://HOST:PORT or ipc://PATH."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile

_BACKLOG = 512
_LARGEST_PORT = 65_535


def listen(bind: str) -> tuple[socket.socket, str]:
    """Listens; gives the socket and its address, the real port in it.

    Args:
        bind: tcp://HOST:PORT, where HOST may be * for every interface and PORT 0 or * for a free one, or ipc://PATH,
            where PATH may be * for a new one.

    Raises:
        OSError: it cannot be bound.
    """
    kind, _, place = bind.partition("://")
    if kind == "ipc":
        return _listen_at(place)
    host, colon, port = place.rpartition(":")
    host = host.strip("[]")
    if kind != "tcp" or not colon or not host or not (port == "*" or port.isdecimal()):
        raise OSError(errno.EINVAL, "Invalid argument")
    if port != "*" and int(port) > _LARGEST_PORT:
        raise OSError(errno.EINVAL, "no such port")
    number = 0 if port == "*" else int(port)
    found = socket.getaddrinfo("0.0.0.0" if host == "*" else host, number, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    listener = socket.create_server((str(address[0]), number), family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    name, real_port = listener.getsockname()[:2]
    return listener, f"tcp://[{name}]:{real_port}" if family == socket.AF_INET6 else f"tcp://{name}:{real_port}"


def _listen_at(path: str) -> tuple[socket.socket, str]:
    if path == "*":
        path = os.path.join(tempfile.mkdtemp(prefix="inferential-"), "socket")
    forget(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener, f"ipc://{path}"


def forget(path: str) -> None:
    """Takes a socket's name out of the file system, if one is there: its listener is gone, or another takes over."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
