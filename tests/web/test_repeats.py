"""Probes in the words of one before are answered at once, and as the first was."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from inferential import LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.services import HttpConfig
from inferential.server import repeats
from inferential.transport.silent import SILENT
from inferential.web import HttpServer

Open = Callable[..., AbstractAsyncContextManager[tuple[Server, HttpServer]]]
TOKEN = "s3cret"


@pytest.fixture
def opened() -> Open:
    @asynccontextmanager
    async def start(**config: Any) -> AsyncIterator[tuple[Server, HttpServer]]:
        dispatcher = LocalDispatcher({"arm": lambda observation: observation})
        served = Server(
            "tcp://127.0.0.1:0",
            config=InferentialConfig(server={"drain_timeout_s": 0.0}),
            dispatcher=dispatcher,
        )
        async with served as server, HttpServer(server, HttpConfig(**{"port": 0, **config})) as page:
            yield server, page

    return start


def head(path: str, *more: str, start: str = "GET {} HTTP/1.1") -> bytes:
    return "\r\n".join([start.format(path), "Host: localhost", *more, "", ""]).encode()


def port(page: HttpServer) -> int:
    return int(page.address.rpartition(":")[2])


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Returns the head of an answer, without its date, and its body; both without how long since a model is ready."""
    said = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", said)
    body = await reader.readexactly(int(length[1])) if length else b""
    return re.sub(rb"date: [^\r]+ GMT\r\n|content-length: \d+", b"", said), re.sub(rb'"since":[\d.]+', b"", body)


async def ask(page: HttpServer, *said: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the answers to requests by one connection, each sent when the one before has its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(page))
    found = []
    for one in said:
        writer.write(one)
        found.append(await answer(reader))
    writer.close()
    return found


async def ask_ahead(page: HttpServer, said: bytes) -> tuple[bytes, bytes]:
    """Returns the answer to a request that is there before its connection is accepted; the server ends that."""
    calling = socket.create_connection(("127.0.0.1", port(page)))
    calling.sendall(said)
    reader, writer = await asyncio.open_connection(sock=calling)
    found = await answer(reader)
    assert await reader.read() == b""
    writer.close()
    return found


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz/arm", "/readyz/nothing"])
async def test_what_is_asked_again_is_answered_as_before(path: str, opened: Open) -> None:
    async with opened() as (_, page), asyncio.timeout(60):
        first, *others = await ask(page, *3 * [head(path)])
        assert page.repeated == 2
        assert others == [first, first]
        assert (await ask(page, head(path)))[0] == first
        assert page.repeated == 3
        closing = head(path, "Connection: close")
        first = await ask_ahead(page, closing)
        assert page.repeated == 3
        assert b"\r\nconnection: close\r\n" in first[0]
        assert await ask_ahead(page, closing) == first
        assert page.repeated == 4


async def test_an_answer_is_that_of_now(opened: Open) -> None:
    async with opened() as (server, page), asyncio.timeout(60):
        ready, again = await ask(page, *2 * [head("/readyz")])
        assert ready == again
        await server.drain()
        ((draining, body),) = await ask(page, head("/readyz"))
        assert page.repeated == 2
        assert draining.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"the server is draining" in body


async def test_what_was_answered_to_a_client_with_the_token_is_refused_to_one_without(opened: Open) -> None:
    async with opened(token=TOKEN) as (_, page), asyncio.timeout(60):
        bearer = f"Authorization: Bearer {TOKEN}"
        for said, status in (
            (head("/readyz", bearer), b"200"),
            (head("/readyz"), b"401"),
            (head("/readyz", "A: b"), b"401"),
        ):
            for found, _body in await ask(page, *2 * [said]):
                assert found.split()[1] == status
        assert page.repeated == 1


@pytest.mark.parametrize(
    "said",
    [
        head("/readyz", start="HEAD {} HTTP/1.1"),
        head("/readyz", start="POST {} HTTP/1.1"),
        head("/other"),
        head("/api/status"),
        head("/readyz", "Content-Length: 2") + b"{}",
    ],
)
async def test_nothing_else_is_remembered(said: bytes, opened: Open) -> None:
    async with opened() as (_, page), asyncio.timeout(60):
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port(page))
            writer.write(said)
            assert (await reader.readuntil(b"\r\n\r\n")).split()[1] in {b"200", b"404", b"405"}
            writer.close()
        assert page.repeated == 0


async def test_the_bytes_of_a_probe_within_another_request_are_part_of_that(opened: Open) -> None:
    async with opened() as (_, page), asyncio.timeout(60):
        probe = head("/healthz")
        await ask(page, probe, probe)
        assert page.repeated == 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port(page))
        writer.write(head("/readyz") + b"GET /readyz/arm HTTP/1.1\r\nHost: localhost\r\nX: ")
        assert b'"problems"' in (await answer(reader))[1]
        writer.write(probe)
        assert b'"model": "arm"' in (await answer(reader))[1].replace(b'":"', b'": "')
        writer.write(b"POST /readyz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(probe))
        await asyncio.sleep(0)
        writer.write(probe)
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 405 ")
        writer.close()
        assert page.repeated == 1


async def test_two_probes_at_once_are_answered_in_their_order(opened: Open) -> None:
    async with opened() as (_, page), asyncio.timeout(60):
        await ask(page, head("/healthz"), head("/readyz"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port(page))
        writer.write(head("/readyz/arm") + head("/healthz"))
        writer.write(head("/readyz"))
        bodies = [(await answer(reader))[1] for _ in range(3)]
        assert b'"arm"' in bodies[0]
        assert bodies[1] == b"OK\n"
        assert b'"problems"' in bodies[2]
        writer.close()


async def test_what_cannot_be_made_again_fails_as_it_would_the_first_time(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as (server, page), asyncio.timeout(60):
        probe = head("/readyz", "Connection: close")
        await ask_ahead(page, probe)
        monkeypatch.setattr(server, "readiness", lambda: 1 / 0)
        for _ in range(2):
            assert (await ask_ahead(page, probe))[0].startswith(b"HTTP/1.1 500 ")
        assert "division by zero" in caplog.text


async def test_a_prober_that_has_left_costs_nothing(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as (_, page), asyncio.timeout(60):
        probe = head("/readyz", "Connection: close")
        await ask_ahead(page, probe)
        for _ in range(3):
            gone = socket.create_connection(("127.0.0.1", port(page)))
            gone.sendall(probe)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            gone.close()
        assert (await ask_ahead(page, probe))[0].startswith(b"HTTP/1.1 200 ")
        assert caplog.messages == []
        assert len(SILENT) == 0


async def test_an_answer_that_is_long_leaves_by_a_connection_that_waits_for_its_reader(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.server.repeats.AT_ONCE", 100)
    async with opened() as (_, page), asyncio.timeout(60):
        probe = head("/readyz", "Connection: close")
        assert await ask_ahead(page, probe) == await ask_ahead(page, probe)
        assert page.repeated == 1


async def test_as_many_are_remembered_as_there_is_room_for(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST", 2)
    async with opened() as (_, page), asyncio.timeout(60):
        one, two, three = (head("/healthz", f"X: {number}") for number in range(3))
        await ask(page, one, two, three, two, three, one)
        assert page.repeated == 2
        long = head("/healthz", f"X: {'x' * repeats.LONGEST}")
        await ask(page, long, long)
        assert page.repeated == 2


async def test_behind_tls_too(opened: Open) -> None:
    certificate = Path(__file__).parents[1] / "server" / "localhost.pem"
    async with opened(tls_certificate=str(certificate), tls_key=str(certificate)) as (_, page), asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(
            "localhost", port(page), ssl=ssl.create_default_context(cafile=str(certificate))
        )
        found = []
        for _ in range(2):
            writer.write(head("/readyz"))
            found.append(await answer(reader))
        writer.close()
        assert found[0] == found[1]
        assert page.repeated == 1
