"""A model that is an openpi policy server, asked over its websocket protocol.

When it is called, and with what, is decided as for any other model.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from inferential.dispatch.base import RemoteModelError
from inferential.proto.msgpack_numpy import pack, unpack
from inferential.transport.keepalive import enable_keepalive

logger: logging.Logger = logging.getLogger("inferential.dispatch.openpi")

DEFAULT_TIMEOUT_S = 120.0
_SCHEMES = {"openpi": ("ws", 8000), "openpi+wss": ("wss", 443)}
"""The websocket scheme and the default port of each scheme of a target."""
_CLOSE_TIMEOUT_S = 1.0  # a server that computes does not answer a close


class OpenPiModel:
    """Asks an openpi policy server, over as many connections as calls run at once (`models.known.<id>.max_inflight`).

    Connections are made when they are needed, and again where they were lost. Observations are sent as they came.
    There are no websocket pings: a server that computes, or compiles, answers none, and is alive.

    Args:
        target: `openpi://HOST[:PORT][/PATH]`, or `openpi+wss://` for TLS; the default ports are 8000 and 443.
        api_key: sent as Authorization: Api-Key KEY.
        timeout_s: how long a call may take, making a connection included.

    Raises:
        ValueError: `target` is not such an address.

    Example:
        >>> model = OpenPiModel("openpi://127.0.0.1:8000", timeout_s=90)
    """

    def __init__(self, target: str, api_key: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._uri, self._is_loopback = _websocket_uri(target)
        self._headers = None if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._timeout_s = timeout_s
        self._idle: list[ClientConnection] = []
        self._metadata: Mapping[str, Any] | None = None

    async def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Returns the server's answer, all of it.

        Raises:
            RemoteModelError: the policy failed; the text is the last line of its traceback.
            ConnectionError: the server cannot be reached, or ended the connection during the call.
            TimeoutError: it did not answer within `timeout_s`.
            TypeError, ValueError: naming the key of a value that the protocol cannot carry.
        """
        message = pack(observation)
        async with self._time_out():
            return await self._exchange(message)

    async def metadata(self) -> Mapping[str, Any]:
        """Returns what the server sends of itself to each connection.

        Raises:
            ConnectionError, TimeoutError: as `infer`.
        """
        if self._metadata is None:
            async with self._time_out():
                self._idle.append(await self._connected())
        return self._metadata or {}

    @asynccontextmanager
    async def _time_out(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise TimeoutError(f"{self._uri} did not answer within {self._timeout_s:g} s") from None

    async def _exchange(self, message: bytes) -> dict[str, Any]:
        while self._idle:
            websocket = self._idle.pop()
            try:
                return await self._ask(websocket, message)
            except ConnectionClosed:
                logger.info("the connection to %s had ended", self._uri)  # most likely before this call
        websocket = await self._connected()
        try:
            return await self._ask(websocket, message)
        except ConnectionClosed as error:
            raise ConnectionError(f"{self._uri} ended the connection: {error}") from error

    async def _ask(self, websocket: ClientConnection, message: bytes) -> dict[str, Any]:
        try:
            await websocket.send(message)
            answer = await websocket.recv()
        except asyncio.CancelledError:
            websocket.transport.abort()  # its answer would be taken for that of the next call
            raise
        if isinstance(answer, str):
            lines = answer.strip().splitlines() or ["no reason"]
            raise RemoteModelError(lines[-1])
        values = unpack(answer)
        self._idle.append(websocket)
        if not isinstance(values, dict):
            raise ValueError(f"{self._uri}: expected a map, got {type(values).__name__}")
        return values

    async def _connected(self) -> ClientConnection:
        try:
            websocket = await connect(
                self._uri,
                additional_headers=self._headers,
                compression=None,
                max_size=None,
                open_timeout=None,  # the call's own time-out holds
                close_timeout=_CLOSE_TIMEOUT_S,
                ping_interval=None,
                proxy=None if self._is_loopback else True,
            )
            enable_keepalive(websocket.transport.get_extra_info("socket"))
            try:
                metadata = await websocket.recv()
            except asyncio.CancelledError:
                websocket.transport.abort()
                raise
        except InvalidStatus as error:
            raise ConnectionError(f"{self._uri} refuses the connection: HTTP {error.response.status_code}") from error
        except (OSError, WebSocketException) as error:
            raise ConnectionError(f"{self._uri} cannot be reached: {error}") from error
        found = unpack(metadata) if isinstance(metadata, bytes) else metadata
        self._metadata = found if isinstance(found, Mapping) else {}
        logger.info("connected to %s, metadata %s", self._uri, found)
        return websocket

    async def aclose(self) -> None:
        """Ends its connections."""
        idle, self._idle = self._idle, []
        for websocket in idle:
            await websocket.close()


def _websocket_uri(target: str) -> tuple[str, bool]:
    """Returns the websocket address of a target, and whether it is on this machine."""
    try:
        parts = urlsplit(target)
        scheme, port = _SCHEMES[parts.scheme]
        host, port = parts.hostname or "", parts.port or port
    except (KeyError, ValueError):
        host = ""
    if not host or parts.username is not None or parts.fragment:
        raise ValueError(
            f"expected openpi://HOST:PORT or openpi+wss://HOST:PORT, with or without a path, got {target!r}"
        )
    where = f"[{host}]" if ":" in host else host
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return f"{scheme}://{where}:{port}{path}", _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
