"""Connections to the page and to gateways over HTTP that ask nothing are let go, and take no robot's place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from inferential import LocalDispatcher, Server
from inferential.config.services import HttpConfig
from inferential.server import http_listener
from inferential.transport import descriptors, silent
from inferential.transport.silent import SILENT
from inferential.web import HttpServer

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: "
REST = b"x\r\n\r\n"


@pytest.fixture
async def page() -> AsyncIterator[HttpServer]:
    server = Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"arm": lambda observation: observation}))
    async with server, HttpServer(server, HttpConfig(port=0)) as opened:
        yield opened


async def call(page: HttpServer, said: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which that is there to be read when it is accepted."""
    opened = socket.create_connection(("127.0.0.1", int(page.address.rpartition(":")[2])))
    opened.sendall(said)
    return await asyncio.open_connection(sock=opened)


@pytest.mark.parametrize(("said", "answered"), [(b"", False), (HALF, False), (HALF, True)])
async def test_a_connection_on_which_no_request_comes_is_ended(
    said: bytes, answered: bool, page: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_listener, "HEAD_S", 0.1)
    reader, writer = await call(page, HALF + REST if answered else said)
    if answered:
        await reader.readuntil(b"OK\n")
        writer.write(said)
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):  # where it was ended before that was read
            assert await reader.read() == b""
    writer.close()


async def test_a_request_that_comes_in_pieces_is_answered_and_its_answer_may_take_long(
    page: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await call(page, HALF)
    await asyncio.sleep(0.02)
    writer.write(REST)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    monkeypatch.setattr(http_listener, "HEAD_S", 0.2)
    stream, asked = await call(page, b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(8):
        await asyncio.sleep(0.04)
    assert not stream.at_eof()
    asked.write_eof()
    for one in (writer, asked):
        one.close()


async def test_few_descriptors_are_left_to_robots(
    page: HttpServer, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(descriptors, "SHARE", 0.0)
    for _ in range(3):
        reader, writer = await call(page)
        assert await reader.read() == b""
        writer.close()
    assert [line for line in caplog.messages if "few file descriptors are left (ulimit -n), which robots need" in line]
    monkeypatch.undo()
    reader, writer = await call(page)
    writer.write(HALF + REST)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def test_where_few_are_left_a_silent_connection_gives_way_to_one_that_asks(
    page: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_nothing, silent_writer = await call(page)
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert len(SILENT) == 1
    monkeypatch.setattr(descriptors, "SHARE", 0.0)
    monkeypatch.setattr(silent, "SETTLED_S", 0.0)
    reader, writer = await call(page)
    writer.write(HALF + REST)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert await said_nothing.read() == b""
    for one in (writer, silent_writer):
        one.close()


def none_left_for(page: HttpServer) -> Any:
    accept = socket.socket.accept

    def none_left(self: Any) -> Any:
        if self.getsockname()[1] == int(page.address.rpartition(":")[2]):
            raise OSError(24, "Too many open files")
        return accept(self)

    return none_left


async def test_where_none_is_left_silent_connections_are_let_go_and_the_log_says_it_once(
    page: HttpServer, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    said_nothing, silent_writer = await call(page)
    for _ in range(5):
        await asyncio.sleep(0.01)
    monkeypatch.setattr(silent, "SETTLED_S", 0.0)
    with monkeypatch.context() as exhausted:
        exhausted.setattr("socket.socket.accept", none_left_for(page))
        _, writer = await call(page)
        assert await said_nothing.read() == b""
    assert [line.partition(":")[0] for line in caplog.messages] == ["cannot accept connections for 1 s"]
    for one in (writer, silent_writer):
        one.close()


async def test_where_no_descriptor_is_left_a_turn_of_the_event_loop_tries_once(
    page: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, tries = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: tries.append(context["message"]))
    with monkeypatch.context() as exhausted:
        exhausted.setattr("socket.socket.accept", none_left_for(page))
        _, writer = await call(page)
        for _ in range(5):
            await asyncio.sleep(0.01)
    assert tries == ["socket.accept() out of system resource"]
    writer.close()


async def test_what_is_no_http_is_answered_and_logged_once_a_minute(page: HttpServer, caplog: Any) -> None:
    caplog.set_level("INFO")
    for _ in range(5):
        reader, writer = await call(page)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
    assert caplog.messages == ["127.0.0.1: what came is no HTTP/1.1 request"]


def test_scarce_is_counted_from_the_lowest_free_number(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = SimpleNamespace(RLIMIT_NOFILE=7, RLIM_INFINITY=-1, getrlimit=lambda _: (limit, 4096))
    monkeypatch.setattr(descriptors, "resource", limits)
    limit = 100
    assert (descriptors.is_scarce(74), descriptors.is_scarce(75)) == (False, True)
    limit = -1
    assert not descriptors.is_scarce(10**6)


HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a field": (HEAD + b"X: ", b"a" * 8192),
    "fields": (HEAD, b"X: a\r\n" * 1000),
    "an address": (b"GET /", b"a" * 8192),
    "fields behind a body": (CHUNKED + b"1\r\na\r\n0\r\n", b"X: a\r\n" * 1000),
    "a field behind a body": (CHUNKED + b"0\r\nX: ", b"a" * 8192),
    "what describes a chunk": (CHUNKED + b"1;", b"a" * 8192),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_is_around_a_body_has_an_end(what: str, page: HttpServer) -> None:
    first, more = ENDLESS[what]
    _, writer = await call(page)
    writer.write(first)
    sent = 0
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing() and sent < 64 * http_listener.HEAD_BYTES:
                writer.write(more)
                sent += len(more)
                await writer.drain()
                await asyncio.sleep(0.001)
    assert sent < 64 * http_listener.HEAD_BYTES
    writer.close()


async def test_a_body_may_come_in_very_small_chunks(page: HttpServer) -> None:
    reader, writer = await call(page)
    writer.write(CHUNKED)
    for _ in range(200):
        writer.write(b"1\r\na\r\n" * 200)
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert b" 405 " in await reader.readline()
    writer.write(HALF + REST)
    assert b"HTTP/1.1 200 OK" in await reader.readuntil(b"OK\n")
    writer.close()


async def test_some_requests_may_come_at_once_and_not_any_number(page: HttpServer) -> None:
    reader, writer = await call(page)
    writer.write((HALF + REST) * 10)
    for _ in range(10):
        await reader.readuntil(b"OK\n")
    writer.write((HALF + REST) * 10_000)
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            rest = await reader.read(1_000_000)
            assert rest.count(b"200 OK") < 100
            while await reader.read(1_000_000):
                pass
    writer.close()


async def test_of_requests_that_come_together_the_body_of_one_is_no_head_of_the_next(
    page: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = asyncio.get_running_loop().create_future()
    connection_made = AutoHTTPProtocol.connection_made

    def noted(self: Any, transport: Any) -> None:
        connection_made(self, transport)
        made.set_result(self)

    monkeypatch.setattr(AutoHTTPProtocol, "connection_made", noted)
    reader, writer = await call(page)
    async with asyncio.timeout(60):
        protocol = await made
        body = bytes(2 * http_listener.HEAD_BYTES)
        head = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        protocol.data_received(head + body + HALF)
        protocol.data_received(REST)
        assert await reader.readline() == b"HTTP/1.1 405 Method Not Allowed\r\n"
        await reader.readuntil(b"HTTP/1.1 200 OK\r\n")
    writer.close()
