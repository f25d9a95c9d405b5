"""Peers of ZMTP 2: a tiny client by the rules of RFC 15, and what JeroMQ 0.3.6 (Debian's) was recorded to send."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from inferential.transport.zmq_transport import ZmqTransport

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
ROUTER, REQ, DEALER, PUB = 6, 3, 5, 1
JEROMQ_SIGNATURE = b"\xff\0\0\0\0\0\0\0\6\x7f"
JEROMQ_MESSAGE = b"\0\5arm-1\1\0\1\3ENV\2\0\0\0\0\0\0\2X" + b"PAY" * 200


def receive(opened: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = opened.recv(size - len(data))
        if not piece:
            return data
        data += piece
    return data


def shake(address: str, socket_type: int, identity: bytes) -> socket.socket:
    """Connects as RFC 15 has it: each part once the peer's before it has come."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    opened = socket.create_connection((host, int(port)), timeout=60)
    opened.sendall(SIGNATURE)
    assert receive(opened, 11)[10] == 3
    opened.sendall(b"\1" + bytes((socket_type, 0, len(identity))) + identity)
    return opened


async def next_of(transport: ZmqTransport) -> tuple[bytes, bytes, bytes]:
    async with asyncio.timeout(60):
        found = await transport.recv()
    return found.identity, bytes(found.envelope), bytes(found.payload)


@pytest.mark.parametrize("socket_type", [DEALER, REQ, ROUTER])
async def test_a_peer_of_version_2_is_served(transport: ZmqTransport, socket_type: int) -> None:
    receiving = asyncio.create_task(next_of(transport))
    with await asyncio.to_thread(shake, transport.address, socket_type, b"arm") as robot:
        assert await asyncio.to_thread(receive, robot, 3) == bytes((ROUTER, 0, 0))
        robot.sendall(b"\1\0\1\1e\0\1p")
        assert await receiving == (b"arm", b"e", b"p")
        transport.post(transport.connection_of(b"arm"), b"answer", b"x" * 300)
        expected = b"\1\0\1\6answer\2" + (300).to_bytes(8) + b"x" * 300
        assert await asyncio.to_thread(receive, robot, len(expected)) == expected


async def test_it_may_have_no_identity(transport: ZmqTransport) -> None:
    receiving = asyncio.create_task(next_of(transport))
    with await asyncio.to_thread(shake, transport.address, DEALER, b"") as robot:
        robot.sendall(b"\1\0\1\1e\0\1p")
        identity, *_ = await receiving
        assert identity.startswith(b"\0")


async def test_one_that_cannot_connect_to_a_router_is_not_connected(transport: ZmqTransport) -> None:
    receiving = asyncio.create_task(next_of(transport))
    with await asyncio.to_thread(shake, transport.address, PUB, b"arm") as robot:
        assert len(await asyncio.to_thread(receive, robot, 1000)) < 1000  # it is closed
    receiving.cancel()
    assert transport.sizes()["connections"] == 0


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
async def test_what_jeromq_0_3_6_sends_is_understood(transport: ZmqTransport, pieces: str) -> None:
    receiving = asyncio.create_task(next_of(transport))
    host, _, port = transport.address.removeprefix("tcp://").rpartition(":")
    sent = JEROMQ_SIGNATURE + bytes((1, DEALER)) + JEROMQ_MESSAGE

    def say() -> socket.socket:
        opened = socket.create_connection((host, int(port)), timeout=60)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [sent] if pieces == "whole" else [bytes((byte,)) for byte in sent]:
            opened.sendall(piece)
        return opened

    with await asyncio.to_thread(say):
        assert await receiving == (b"arm-1", b"ENV", b"PAY" * 200)


_JAR = os.environ.get("JEROMQ_JAR", "/usr/share/java/jeromq-0.3.6.jar")
_PROGRAM = """
import org.zeromq.ZMQ;
public class Robot {
  public static void main(String[] given) throws Exception {
    ZMQ.Context context = ZMQ.context(1);
    ZMQ.Socket robot = context.socket(ZMQ.DEALER);
    robot.setIdentity("arm-1".getBytes());
    robot.setLinger(0);
    robot.setReceiveTimeOut(10000);
    robot.connect(given[0]);
    robot.sendMore(new byte[0]); robot.sendMore("ENV".getBytes()); robot.send("PAY".getBytes(), 0);
    robot.recv(0);
    System.out.print(new String(robot.recv(0)));
    System.exit(0);
  }
}
"""


@pytest.mark.skipif(not (shutil.which("javac") and Path(_JAR).exists()), reason="needs Java and libjeromq-java")
async def test_jeromq_itself_is_answered(transport: ZmqTransport, tmp_path: Path) -> None:
    (tmp_path / "Robot.java").write_text(_PROGRAM)

    def run() -> Any:
        subprocess.run(["javac", "-cp", _JAR, "-d", tmp_path, tmp_path / "Robot.java"], check=True, timeout=60)
        command = ["java", "-cp", f"{_JAR}{os.pathsep}{tmp_path}", "Robot", transport.address]
        return subprocess.run(command, capture_output=True, timeout=60, check=True)

    robot = asyncio.create_task(asyncio.to_thread(run))
    async with asyncio.timeout(100):
        assert (await transport.recv()).identity == b"arm-1"
        transport.post(transport.connection_of(b"arm-1"), b"answer", b"")
        assert (await robot).stdout == b"answer"
