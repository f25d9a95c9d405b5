"""Listening sockets for ZeroMQ addresses: tcp://HOST:PORT or ipc://PATH."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile

from inferential.zmtp.stream import socket_path

_BACKLOG = 512
LARGEST_PORT = 65_535


class Listener:
    """A listening socket.

    Args:
        listening: the socket.
        address: the address that robots connect to.
        path: the socket's path in the file system; "" if it has none.
        folder: the folder that was created for it; "" if none was.
    """

    def __init__(self, listening: socket.socket, address: str, path: str = "", folder: str = "") -> None:
        listening.setblocking(False)
        self.socket = listening
        self.address = address
        self._path = path
        self._folder = folder
        self._inode = os.stat(path).st_ino if path else 0

    def close(self) -> None:
        """Stops listening, and removes its path unless another server has taken it over."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self._path and os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)
            if self._folder:
                os.rmdir(self._folder)


def listen(bind: str) -> Listener:
    """Returns a socket that listens on an address.

    Args:
        bind: tcp://HOST:PORT, where HOST may be * for every interface and PORT 0 or * for a free one; or ipc://PATH,
            where PATH may be * for a new one, or begin with @ for an abstract socket (Linux).

    Raises:
        OSError: the address cannot be bound.
    """
    kind, _, place = bind.partition("://")
    if kind == "ipc":
        return _listen_at(place)
    host, colon, port = place.rpartition(":")
    host = host.strip("[]")
    if kind != "tcp" or not colon or not host or not (port == "*" or port.isdecimal()):
        raise OSError(errno.EINVAL, "Invalid argument")
    if port != "*" and int(port) > LARGEST_PORT:
        raise OSError(errno.EINVAL, f"port: at most {LARGEST_PORT}, got {port}")
    number = 0 if port == "*" else int(port)
    found = socket.getaddrinfo("0.0.0.0" if host == "*" else host, number, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    listening = socket.create_server((str(address[0]), number), family=family, backlog=_BACKLOG)
    name, real_port = listening.getsockname()[:2]
    shown = f"[{name}]" if family == socket.AF_INET6 else name
    return Listener(listening, f"tcp://{shown}:{real_port}")


def _listen_at(path: str) -> Listener:
    folder = ""
    if path == "*":
        folder = tempfile.mkdtemp(prefix="inferential-")
        path = os.path.join(folder, "socket")
    named = not path.startswith("@")
    if named:
        _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(socket_path(path))
        listening.listen(_BACKLOG)
        return Listener(listening, f"ipc://{path}", path if named else "", folder)
    except BaseException:
        listening.close()
        raise


def _remove_stale(path: str) -> None:
    """Removes the socket file of a server that no longer runs.

    libzmq removes that of a running server too, which no robot can reach afterwards; here binding fails, as it does for
    a port in use.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller, contextlib.suppress(FileNotFoundError):
        caller.setblocking(False)
        if stat.S_ISSOCK(os.lstat(path).st_mode) and caller.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
