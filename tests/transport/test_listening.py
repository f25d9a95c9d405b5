"""Addresses of ZeroMQ's: what is listened on, under which name, and who may have it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from inferential.transport.listening import Listener, listen
from inferential.zmtp.ipc import socket_path


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def reached(listener: Listener) -> None:
    kind, _, place = listener.address.partition("://")
    if kind == "ipc":
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(socket_path(place))
    else:
        host, _, port = place.rpartition(":")
        socket.create_connection((host.strip("[]").replace("0.0.0.0", "127.0.0.1"), int(port)), timeout=60).close()


@pytest.mark.parametrize(
    "bind", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://*:*", "tcp://*:0", "tcp://localhost:0"]
)
def test_the_address_has_the_real_port_and_can_be_reached(bind: str) -> None:
    listener = listen(bind)
    assert int(listener.address.rpartition(":")[2]) > 0
    reached(listener)
    listener.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("bind", ["tcp://*:0", "tcp://*:*"])
def test_every_interface_is_that_of_ipv4_and_of_ipv6_on_one_port(bind: str) -> None:
    listener = listen(bind)
    port = int(listener.address.rpartition(":")[2])
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), timeout=60).close()
    assert listener.address == f"tcp://0.0.0.0:{port}"
    listener.close()
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), timeout=60)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_every_interface_needs_the_port_for_both_kinds_of_addresses() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as raised:
            listen(f"tcp://*:{port}")
    assert raised.value.errno == errno.EADDRINUSE
    socket.create_server(("127.0.0.1", port)).close()  # it was given back


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_all_of_one_kind_leaves_the_port_of_the_other_kind_free() -> None:
    first = listen("tcp://0.0.0.0:0")
    second = listen(f"tcp://[::]:{first.address.rpartition(':')[2]}")
    reached(first)
    first.close()
    second.close()


def test_a_machine_without_ipv6_listens_on_every_interface_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def create_server(address: tuple[str, int], *, family: int, backlog: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(address, family=family, backlog=backlog)

    monkeypatch.setattr(socket, "create_server", create_server)
    listener = listen("tcp://*:0")
    reached(listener)
    listener.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("bind", ["tcp://[::1]:0", "tcp://::1:*"])
def test_an_address_of_ipv6_has_brackets(bind: str) -> None:
    listener = listen(bind)
    assert listener.address.startswith("tcp://[::1]:")
    reached(listener)
    listener.close()


@pytest.mark.parametrize(
    "bind",
    ["tcp://:5555", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:-1", "tcp://127.0.0.1:65536", "udp://*:5"],
)
def test_an_address_that_is_none_is_an_os_error(bind: str) -> None:
    with pytest.raises(OSError) as raised:
        listen(bind)
    assert raised.value.errno == errno.EINVAL


def test_a_path_may_be_left_to_the_system_and_leaves_nothing_behind() -> None:
    listener = listen("ipc://*")
    path = listener.address.removeprefix("ipc://")
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    reached(listener)
    listener.close()
    assert not os.path.exists(os.path.dirname(path))


def test_the_name_of_a_server_that_is_gone_is_taken_over(short_path: Path) -> None:
    path = short_path / "robots.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    listener = listen(f"ipc://{path}")
    reached(listener)
    listener.close()
    assert not path.exists()


def test_the_name_of_a_server_that_lives_is_in_use(short_path: Path) -> None:
    first = listen(f"ipc://{short_path}/robots.sock")
    with pytest.raises(OSError) as raised:
        listen(f"ipc://{short_path}/robots.sock")
    assert raised.value.errno == errno.EADDRINUSE
    reached(first)
    first.close()


def test_a_file_that_is_no_socket_is_left_alone(short_path: Path) -> None:
    path = short_path / "notes"
    path.write_text("mine")
    with pytest.raises(OSError):
        listen(f"ipc://{path}")
    assert path.read_text() == "mine"


def test_closing_leaves_a_name_that_another_server_has_taken_over(short_path: Path) -> None:
    path = short_path / "robots.sock"
    first = listen(f"ipc://{path}")
    path.rename(short_path / "old.sock")  # so that the inode is not used again
    second = listen(f"ipc://{path}")
    first.close()
    reached(second)
    second.close()


@pytest.mark.parametrize("path", ["/" + "x" * 107, "@" + "x" * 107, "é" * 54])
def test_a_path_that_is_too_long_is_an_os_error_that_says_by_how_much(path: str) -> None:
    with pytest.raises(OSError, match="the path has 108 bytes, that of a Unix socket at most 107") as raised:
        listen(f"ipc://{path}")
    assert raised.value.errno == errno.ENAMETOOLONG


def test_one_that_is_left_to_the_system_is_short_whatever_its_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    listener = listen("ipc://*")
    reached(listener)
    listener.close()


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="Linux alone has such names")
def test_a_name_may_be_in_no_file_system() -> None:
    listener = listen(f"ipc://@inferential-{os.getpid()}")
    assert not os.path.exists(f"@inferential-{os.getpid()}")
    reached(listener)
    listener.close()
