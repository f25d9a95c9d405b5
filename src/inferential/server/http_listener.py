"""Listens for HTTP beside a server, on its event loop: the live page, and gateways over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import uvicorn

from inferential.server.tls import check_tls

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_DATE_S = 1.0


class HttpAddress(Protocol):
    """What a section of the configuration says of where to listen, and with which certificate."""

    host: str
    port: int
    tls_certificate: str | None
    tls_key: str | None


class HttpListener:
    """A port on which an application answers.

    Args:
        section: of the configuration, as errors name it.
        config: where to listen; port 0 is a free one.
        limit_concurrency: the most connections and requests at once, 503 is the answer to more; None: no limit.
    """

    def __init__(self, section: str, config: HttpAddress, *, limit_concurrency: int | None = None) -> None:
        self._section = section
        self._config = config
        self._limit_concurrency = limit_concurrency
        self._socket: socket.socket | None = None
        self._uvicorn: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str | None:
        """Its URL, as http://HOST:PORT, or https:// with TLS; None while it does not listen."""
        if self._socket is None:
            return None
        host, port = self._socket.getsockname()[:2]
        scheme = "http" if self._config.tls_certificate is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def start(self, app: ASGIApp) -> None:
        """Starts to listen; connections are accepted when this returns.

        Raises:
            OSError: the address cannot be bound, or a file of TLS cannot be read.
        """
        config = self._config
        check_tls(self._section, config.tls_certificate, config.tls_key)
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        # asyncio sends at once (TCP_NODELAY) by sockets that say that they are TCP's; else the body of an answer waits
        # 40 ms for the reader to acknowledge the head.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, config.port))
            listening.listen(128)
        except OSError as error:
            listening.close()
            where = f"{config.host}:{config.port}"
            raise OSError(error.errno, f"{self._section}: cannot listen on {where}: {error.strerror}") from error
        self._socket = listening
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                limit_concurrency=self._limit_concurrency,
                ws="none",
                ssl_certfile=config.tls_certificate,
                ssl_keyfile=config.tls_key,
            )
        )
        self._serving = asyncio.get_running_loop().create_task(self._uvicorn.serve([listening]))

    async def stop(self) -> None:
        """Closes all connections; does nothing if it is stopped already."""
        if self._socket is None or self._uvicorn is None or self._serving is None:
            return
        self._uvicorn.end()
        await self._serving
        self._socket.close()
        self._socket = None


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the policy server, and sleeps until it is to end: uvicorn itself looks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Makes `serve` close all connections and return."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which writes the date of answers
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_S):
                    await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
