"""TLS of the page and of the gateways of openpi and /act.

localhost.pem is a certificate for localhost and its key, made for this.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import connect

from inferential import LocalDispatcher, Server
from inferential.config.gateways import ActConfig, OpenPiConfig
from inferential.config.services import HttpConfig
from inferential.dispatch.openpi import OpenPiModel
from inferential.gateway.act import ActGateway
from inferential.gateway.openpi import OpenPiGateway
from inferential.server import http_listener
from inferential.transport import descriptors
from inferential.web import HttpServer

CERTIFICATE = Path(__file__).with_name("localhost.pem")


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


def serving() -> Server:
    return Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": lambda observation: 1.0}))


async def test_a_page_with_a_certificate_is_read_by_https_with_its_token() -> None:
    token = "sha256:" + hashlib.sha256(b"long and random").hexdigest()
    config = HttpConfig.model_validate({"port": 0, "tls_certificate": str(CERTIFICATE), "token": token})

    def ask(address: str, shown: str) -> int:
        connection = http.client.HTTPSConnection(address.removeprefix("https://"), timeout=60, context=trusting())
        connection.request("GET", "/api/status", headers={"Authorization": f"Bearer {shown}"})
        try:
            return connection.getresponse().status
        finally:
            connection.close()

    async with serving() as server, HttpServer(server, config) as page:
        assert page.address.startswith("https://")
        assert await asyncio.to_thread(ask, page.address, "long and random") == 200
        assert await asyncio.to_thread(ask, page.address, token) == 401


async def test_a_robot_of_openpi_connects_by_wss_and_checks_the_certificate() -> None:
    config = OpenPiConfig(model="m", port=0, tls_certificate=str(CERTIFICATE))
    async with serving() as server, OpenPiGateway(server, config) as gateway:
        assert gateway.address.startswith("wss://")
        async with connect(gateway.address, ssl=trusting()) as robot:
            assert isinstance(await robot.recv(), bytes)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(gateway.address)


async def test_a_robot_of_act_asks_by_https_and_checks_the_certificate() -> None:
    config = ActConfig(model="m", port=0, tls_certificate=str(CERTIFICATE), token="t")

    def ask(address: str, context: ssl.SSLContext) -> int:
        with contextlib.closing(
            http.client.HTTPSConnection(address.removeprefix("https://"), timeout=60, context=context)
        ) as connection:
            connection.request("POST", "/act", json.dumps({"instruction": "go"}), {"Authorization": "Bearer t"})
            return connection.getresponse().status

    def ask_in_plain_text(address: str) -> None:
        with contextlib.closing(http.client.HTTPConnection(address.removeprefix("https://"), timeout=60)) as connection:
            connection.request("POST", "/act", b"{}", {"Authorization": "Bearer t"})
            connection.getresponse()

    dispatcher = LocalDispatcher({"m": lambda observation: {"actions": np.zeros(2)}})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server, ActGateway(server, config) as gateway:
        address = gateway.address.replace("127.0.0.1", "localhost")
        assert address.startswith("https://")
        assert await asyncio.to_thread(ask, address, trusting()) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(ask, address, ssl.create_default_context())
        with pytest.raises((OSError, http.client.HTTPException)):
            await asyncio.to_thread(ask_in_plain_text, address)


async def test_a_certificate_that_cannot_be_read_is_named_with_its_field(tmp_path: Path) -> None:
    config = HttpConfig(port=0, tls_certificate=str(tmp_path / "no.pem"))
    async with serving() as server:
        with pytest.raises(OSError, match=r"http\.tls_certificate, tls_key: .*no\.pem"):
            await HttpServer(server, config).start()


async def test_a_policy_server_by_openpi_wss_is_a_model_if_its_certificate_is_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = OpenPiConfig(model="m", port=0, tls_certificate=str(CERTIFICATE))
    observation = {"state": np.zeros(2, np.float32)}
    async with serving() as server, OpenPiGateway(server, config) as gateway:
        target = f"openpi+wss://localhost:{gateway.address.rpartition(':')[2]}"
        with pytest.raises(ConnectionError, match="certificate"):
            await OpenPiModel(target).infer(observation)
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        model = OpenPiModel(target)
        assert (await model.infer(observation))["actions"] == 1.0
        await model.aclose()


@contextlib.asynccontextmanager
async def connected(kind: str) -> AsyncIterator[asyncio.StreamReader]:
    """A connection to a page or gateway that says nothing."""
    tls = {"port": 0, "tls_certificate": str(CERTIFICATE)}
    async with serving() as server:
        made: HttpServer | OpenPiGateway
        if kind == "page":
            made = HttpServer(server, HttpConfig.model_validate(tls))
        else:
            made = OpenPiGateway(server, OpenPiConfig.model_validate(tls | {"model": "m"}))
        async with made as opened:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(opened.address.rpartition(":")[2]))
            yield reader
            writer.close()


async def ended(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


@pytest.mark.parametrize("kind", ["page", "openpi"])
async def test_a_connection_that_never_begins_with_tls_is_ended(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_listener, "HEAD_S", 0.1)
    async with connected(kind) as reader:
        await ended(reader)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio lets go of the connection
@pytest.mark.parametrize("kind", ["page", "openpi"])
async def test_where_few_descriptors_are_left_no_tls_is_begun(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "SHARE", 0.0)
    async with connected(kind) as reader:
        await ended(reader)
