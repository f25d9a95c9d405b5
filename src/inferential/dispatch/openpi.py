"""A model that is an openpi policy server: its websocket protocol, spoken as a client.

When it is called, and with what, is decided as of any other model.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from inferential.dispatch.base import RemoteModelError
from inferential.proto.msgpack_numpy import pack, unpack

logger = logging.getLogger("inferential.dispatch.openpi")

SCHEME = "openpi://"
"""Begins a target, as openpi://HOST:PORT."""
_DEFAULT_PORT = 8000


class OpenPiModel:
    """Asks an openpi policy server, by as many connections as calls run at once (`models.known.<id>.max_inflight`).

    Connections are made when they are needed, and again where they were lost. Keys are sent as robots told them.

    Args:
        target: openpi://HOST or openpi://HOST:PORT.
        api_key: sent as Authorization: Api-Key KEY.
        timeout_s: how long an answer may take.

    Raises:
        ValueError: `target` is no such address.
    """

    def __init__(self, target: str, api_key: str | None = None, timeout_s: float = 30.0) -> None:
        host, _, port = target.removeprefix(SCHEME).partition(":")
        if not target.startswith(SCHEME) or not host or not (port or str(_DEFAULT_PORT)).isdecimal():
            raise ValueError(f"expected openpi://HOST:PORT, got {target!r}")
        self._uri = f"ws://{host}:{port or _DEFAULT_PORT}"
        self._headers = None if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._timeout_s = timeout_s
        self._idle: list[ClientConnection] = []

    async def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The server's answer.

        Raises:
            RemoteModelError: the policy failed, with what it said.
            ConnectionError: the server cannot be reached, or went while it was asked.
            TimeoutError: it did not answer in time.
        """
        message = pack(observation)
        while self._idle:
            websocket = self._idle.pop()
            try:
                return await self._ask(websocket, message)
            except ConnectionClosed:
                logger.info("the connection to %s had ended", self._uri)  # before it was asked, as far as one can know
        websocket = await self._connected()
        try:
            return await self._ask(websocket, message)
        except ConnectionClosed as error:
            raise ConnectionError(f"{self._uri} ended the connection: {error}") from error

    async def _ask(self, websocket: ClientConnection, message: bytes) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                await websocket.send(message)
                answer = await websocket.recv()
        except TimeoutError:
            await _abandon(websocket)  # its answer would be taken for the next one's
            raise TimeoutError(f"{self._uri} did not answer within {self._timeout_s:g} s") from None
        except asyncio.CancelledError:
            await _abandon(websocket)
            raise
        if isinstance(answer, str):
            lines = answer.strip().splitlines() or ["no reason"]
            raise RemoteModelError(lines[-1])
        values = unpack(answer)
        self._idle.append(websocket)
        if not isinstance(values, dict):
            raise ValueError(f"{self._uri}: expected a map, got {type(values).__name__}")
        # Its timings are maps, which no result has.
        return {key: value for key, value in values.items() if isinstance(key, str) and not isinstance(value, dict)}

    async def _connected(self) -> ClientConnection:
        try:
            websocket = await connect(self._uri, additional_headers=self._headers, compression=None, max_size=None)
            metadata = await asyncio.wait_for(websocket.recv(), self._timeout_s)
        except InvalidStatus as error:
            raise ConnectionError(f"{self._uri} refuses us: HTTP {error.response.status_code}") from error
        except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed, TimeoutError) as error:
            raise ConnectionError(f"{self._uri} cannot be reached: {error}") from error
        logger.info(
            "connected to %s, which says %s", self._uri, unpack(metadata) if isinstance(metadata, bytes) else metadata
        )
        return websocket

    async def aclose(self) -> None:
        """Ends its connections."""
        idle, self._idle = self._idle, []
        for websocket in idle:
            await websocket.close()


async def _abandon(websocket: ClientConnection) -> None:
    websocket.transport.abort()
