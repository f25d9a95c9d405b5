"""Addresses and options of a robot's transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from inferential import AsyncConnection, Connection
from inferential.client.transport import normalize_address

pytestmark = pytest.mark.usefixtures("patient")
WAIT_MS = 60_000
KINDS = [Connection, AsyncConnection]


@pytest.mark.parametrize("form", ["tcp://127.0.0.1:{}", "127.0.0.1:{}", "localhost:{}", "tcp://localhost:{}"])
def test_tcp_may_be_left_out_of_an_address(form: str, peer: Any, open_connection: Callable[..., Connection]) -> None:
    port = peer.address.rpartition(":")[2]
    open_connection(server=form.format(port)).model("m").observe(n=np.array(1))
    assert peer.receive().values["n"] == 1


def test_an_address_may_be_a_path(short_path: Path, open_connection: Callable[..., Connection]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    router.bind(f"ipc://{short_path}/robots.sock")
    try:
        open_connection("robot", server=f"ipc://{short_path}/robots.sock").model("m").observe()
        assert router.recv_multipart()[0] == b"robot"
    finally:
        router.close(linger=0)
        context.term()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "",
        "tcp://",
        "tcp://nonsense",
        "localhost:port",
        "localhost:99999",
        "localhost:0",
        "localhost:-1",
        "ipc://",
        "http://localhost:5555",
        "udp://localhost:5555",
        "tcp://*:5555",
        "a..b:5555",
        "tcp://" + "x" * 64 + ".lan:5555",
        "tcp://a\0b:5555",
        "[::1:5555",
        "::1]:5555",
    ],
)
def test_an_address_that_is_none_is_refused_by_name(kind: Any, address: str) -> None:
    with pytest.raises(ValueError, match=r"^server: expected HOST:PORT, tcp://HOST:PORT or ipc://PATH, got ") as raised:
        kind(address)
    assert repr(address) in str(raised.value)


@pytest.mark.parametrize(("path", "size"), [("/" + "x" * 107, 108), ("@" + "é" * 54, 109)])
def test_a_path_that_is_too_long_for_a_socket_is_refused_by_its_size(path: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"^server: expected a path of at most 107 bytes, got {size}: 'ipc://{path}'"):
        normalize_address(f"ipc://{path}")


@pytest.mark.parametrize("address", ["[fe80::1]:5555", "tcp://fe80::1:5555", "[FE80::1]:5555"])
def test_a_link_local_address_needs_its_interface(address: str) -> None:
    with pytest.raises(ValueError, match=r"^server: a link-local address .* \[fe80::1%eth0\]:5555, got "):
        normalize_address(address)
    assert normalize_address("[fe80::1%eth0]:5555") == "tcp://[fe80::1%eth0]:5555"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["reconnect_ivl_ms", "reconnect_max_ms"])
@pytest.mark.parametrize("value", [-1, -5, 2**31, 1.5, "soon", None])
def test_a_reconnect_time_that_makes_no_sense_is_refused_by_name(kind: Any, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option}: expected whole milliseconds of 0 or more, got {value!r}"):
        kind("localhost:5555", **{option: value})


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_id_that_cannot_be_used_opens_no_socket(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"^client_id: "):
        kind("localhost:5555", "x" * 256)


def test_the_identity_of_the_socket_is_the_client_id(peer: Any, open_connection: Callable[..., Connection]) -> None:
    for client_id, identity in (("arm-3", b"arm-3"), (7, b"7"), ("ü", "ü".encode())):
        connection = open_connection(client_id)
        connection.model("m").observe()
        seen = peer.receive()
        assert (seen.identity, seen.message.client.id) == (identity, connection.client_id)


def test_a_large_read_only_array_is_sent_from_its_own_memory(
    peer: Any, open_connection: Callable[..., Connection]
) -> None:
    array = np.arange(100_000.0)
    array.setflags(write=False)
    open_connection().model("m").observe(n=array)
    np.testing.assert_array_equal(peer.receive().values["n"], array)


def test_a_large_writable_array_may_be_reused_at_once(peer: Any, open_connection: Callable[..., Connection]) -> None:
    model = open_connection().model("m", queue="all")
    frame = np.empty(200_000)
    for n in range(5):
        frame[:] = n
        model.observe(n=frame)
    frame[:] = -1
    for n in range(5):
        assert set(peer.receive().values["n"]) == {float(n)}
