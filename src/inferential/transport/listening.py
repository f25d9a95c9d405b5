"""A listening socket for an address of ZeroMQ's: tcp://HOST:PORT or ipc://PATH."""

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
    """A socket that listens.

    Args:
        listening: the socket.
        address: what robots connect to.
        path: the socket's name in the file system, where it has one.
        folder: was made for it.
    """

    def __init__(self, listening: socket.socket, address: str, path: str = "", folder: str = "") -> None:
        listening.setblocking(False)
        self.socket = listening
        self.address = address
        self._path = path
        self._folder = folder
        self._inode = os.stat(path).st_ino if path else 0

    def close(self) -> None:
        """Stops listening; its name goes too, if no other server has taken it over."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self._path and os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)
            if self._folder:
                os.rmdir(self._folder)


def listen(bind: str) -> Listener:
    """Listens.

    Args:
        bind: tcp://HOST:PORT, where HOST may be * for every interface and PORT 0 or * for a free one, or ipc://PATH,
            where PATH may be * for a new one, or begin with @ for one in no file system (Linux).

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
    if port != "*" and int(port) > LARGEST_PORT:
        raise OSError(errno.EINVAL, "no such port")
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
        _make_room(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(socket_path(path))
        listening.listen(_BACKLOG)
        return Listener(listening, f"ipc://{path}", path if named else "", folder)
    except BaseException:
        listening.close()
        raise


def _make_room(path: str) -> None:
    """Takes the name of a server that is gone out of the file system.

    libzmq takes it from one that lives too, which then waits for robots that cannot find it; here binding fails, as it
    does with a port.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller, contextlib.suppress(FileNotFoundError):
        caller.setblocking(False)
        if stat.S_ISSOCK(os.lstat(path).st_mode) and caller.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
