"""A server with its page and the openpi gateway, on an event loop in a thread, to say anything to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from inferential import LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.gateway.openpi import OpenPiGateway
from inferential.web import HttpServer

_PATIENCE_S = 0.05
"""How long an answer is waited for: a request that is not complete is not answered."""
_HEALTH_S = 10.0
_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


class _Failures(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.endswith(".websockets"):
            return  # websockets 17.4 logs an AssertionError where a peer hangs up during a handshake that it refuses
        self.lines.append(self.format(record))


class Listening:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, int]] = {}
        self.failures = _Failures()
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Listening:
        logging.getLogger().addHandler(self.failures)
        self._thread.start()
        if not self._ready.wait(30) or not self.places:
            raise RuntimeError(f"the server did not start: {self.failures.lines}")
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        logging.getLogger().removeHandler(self.failures)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop.set_exception_handler(self._failed)
        gateways = {"openpi": {"model": "m", "port": 0}}
        config = InferentialConfig.model_validate({"http": {"port": 0}, "gateways": gateways})
        server = Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"m": lambda obs: 1.0}))
        assert config.http is not None
        assert config.gateways.openpi is not None
        async with (
            server,
            HttpServer(server, config.http) as page,
            OpenPiGateway(server, config.gateways.openpi) as openpi,
        ):
            for name, address in (("page", page.address), ("openpi", openpi.address)):
                place = urlsplit(address)
                assert place.hostname is not None
                assert place.port is not None
                self.places[name] = place.hostname, place.port
            self._ready.set()
            await self._stop.wait()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.lines.append(f"{context.get('message')}: {context.get('exception')!r}")

    def say(self, name: str, data: bytes) -> None:
        """Says something to a port and hangs up; then the port must answer as ever, and nothing may have failed."""
        with socket.create_connection(self.places[name], _HEALTH_S) as peer:
            peer.sendall(data)
            peer.settimeout(_PATIENCE_S)
            with contextlib.suppress(TimeoutError, ConnectionError):
                peer.recv(1 << 16)
        with socket.create_connection(self.places[name], _HEALTH_S) as peer:
            peer.sendall(_HEALTH)
            answer = peer.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200"), f"/healthz answers {answer[:60]!r}"
        failures, self.failures.lines = self.failures.lines, []
        assert not failures, failures[0]


_listening: Listening | None = None
_open = contextlib.ExitStack()


def say(name: str, data: bytes) -> None:
    """Says something to a port of a server that is started when it is first needed."""
    global _listening
    if _listening is None:
        _listening = _open.enter_context(Listening())
    _listening.say(name, data)


def close() -> None:
    """Ends the server, where there is one."""
    global _listening
    _open.close()
    _listening = None
