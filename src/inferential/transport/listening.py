"""Listening sockets for ZeroMQ addresses: tcp://HOST:PORT or ipc://PATH.

`*` is every interface, by IPv4 and IPv6, and a name is every address that it has: each is a socket of its own, on one
port, so that robots are known by plain addresses of either kind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterable

from inferential.zmtp.ipc import MAX_PATH_BYTES, path_bytes, socket_path

_BACKLOG = 512
LARGEST_PORT = 65_535
_EVERY_INTERFACE = [(int(socket.AF_INET), "0.0.0.0"), (int(socket.AF_INET6), "::")]
_LACKING = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
"""Errors for an address, or a kind of address, that a machine does not have."""
_ROOM = len("/inferential-12345678/socket")
_TRIES = 8  # to find a port that is free for both kinds of addresses


class Listener:
    """What listens on one address.

    Args:
        sockets: at least one; all on the same port.
        address: the address that robots connect to.
        path: the socket's path in the file system; "" if it has none.
        folder: the folder that was created for it; "" if none was.
    """

    def __init__(self, sockets: list[socket.socket], address: str, path: str = "", folder: str = "") -> None:
        for one in sockets:
            one.setblocking(False)
        self.sockets = sockets
        self.address = address
        self._path = path
        self._folder = folder
        self._inode = os.stat(path).st_ino if path else 0

    def close(self) -> None:
        """Stops listening, and removes its path unless another server has taken it over."""
        for one in self.sockets:
            one.close()
        with contextlib.suppress(OSError):
            if self._path and os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)
            if self._folder:
                os.rmdir(self._folder)


def listen_on_all(binds: Iterable[str]) -> list[Listener]:
    """Begins to listen on several addresses.

    Raises:
        OSError: one cannot be bound; the text names it, and no other is listened on then.
    """
    opened: list[Listener] = []
    for bind in binds:
        try:
            opened.append(listen(bind))
        except OSError as error:
            for one in opened:
                one.close()
            reason = (error.strerror or str(error)).partition(" (while attempting")[0]  # which says the address again
            if error.errno == errno.EADDRINUSE:
                reason += " (end the program that listens there, or choose another port)"
            raise OSError(error.errno, f"transport.bind: cannot listen on {bind!r}: {reason}") from error
    return opened


def listen(bind: str) -> Listener:
    """Begins to listen on an address.

    Args:
        bind: tcp://HOST:PORT, where HOST may be * for every interface (IPv6 where the machine has it) and PORT 0 or *
            for a free one; or ipc://PATH, where PATH may be * for a new one, or begin with @ for an abstract socket
            (Linux).

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
    hosts = _EVERY_INTERFACE if host == "*" else _hosts(host)
    for _ in range(_TRIES - 1 if number == 0 and len(hosts) > 1 else 0):
        with contextlib.suppress(OSError):
            return _listen_on(hosts, number)
    return _listen_on(hosts, number)


def _hosts(host: str) -> list[tuple[int, str]]:
    """Returns the families and addresses of a host, IPv4 first: robots that know none of the two try that first."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    hosts = dict.fromkeys((int(family), str(place[0])) for family, _, _, _, place in found)
    return sorted(hosts, key=lambda one: one[0] != socket.AF_INET)


def _listen_on(hosts: list[tuple[int, str]], number: int) -> Listener:
    """Listens on all of these addresses that the machine has, on one port.

    Raises:
        OSError: the port is in use on one of them, or it has none of them.
    """
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    try:
        for family, host in hosts:
            port = sockets[0].getsockname()[1] if sockets else number
            try:
                sockets.append(socket.create_server((host, port), family=family, backlog=_BACKLOG))
            except OSError as error:
                if error.errno not in _LACKING:
                    raise
                lacking = error
        if not sockets:
            assert lacking is not None
            raise lacking
    except BaseException:
        for one in sockets:
            one.close()
        raise
    name, port = sockets[0].getsockname()[:2]
    shown = f"[{name}]" if sockets[0].family == socket.AF_INET6 else name
    return Listener(sockets, f"tcp://{shown}:{port}")


def _listen_at(path: str) -> Listener:
    folder = ""
    if path == "*":
        folder = tempfile.mkdtemp(prefix="inferential-", dir=socket_folder(_ROOM))
        path = os.path.join(folder, "socket")
    size = path_bytes(path)
    if size > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"the path has {size} bytes, that of a Unix socket at most {MAX_PATH_BYTES}")
    named = not path.startswith("@")
    if named:
        _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(socket_path(path))
        listening.listen(_BACKLOG)
        return Listener([listening], f"ipc://{path}", path if named else "", folder)
    except BaseException:
        listening.close()
        raise


def socket_folder(room: int) -> str:
    """Returns the system's folder for temporary files, or /tmp where `room` more bytes make a path too long in it."""
    found = tempfile.gettempdir()
    return found if path_bytes(found) + room <= MAX_PATH_BYTES else "/tmp"


def _remove_stale(path: str) -> None:
    """Removes the socket file of a server that no longer runs.

    libzmq removes that of a running server too, which no robot can reach afterwards; here binding fails, as it does for
    a port in use.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller, contextlib.suppress(FileNotFoundError):
        caller.setblocking(False)
        if stat.S_ISSOCK(os.lstat(path).st_mode) and caller.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
