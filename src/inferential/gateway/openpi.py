"""Robots that speak openpi's websocket policy protocol.

After the connection is made the server sends one map of metadata; then each binary message is an observation and is
answered by one binary message. A text message tells of an error, and the connection ends with code 1011, as the
client cannot go on after it. `GET /healthz` says OK. (openpi, `websocket_policy_server.py`; openpi-client 0.1.2.)
"""

from __future__ import annotations

import hmac
import itertools
import logging
import os
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import Server as WebsocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from inferential.errors import InferenceError
from inferential.gateway.base import Gateway, Guest, answer_of, flat, text_of
from inferential.proto.msgpack_numpy import pack, unpack
from inferential.server import Server

if TYPE_CHECKING:
    from inferential.config.schema import OpenPiConfig

logger = logging.getLogger("inferential.gateway.openpi")

PATHS = ("/", "/v1/realtime/robot/openpi")
CLIENT_ID_HEADER = "X-Client-Id"
"""A robot that sends it has a name of its own; the others get one."""
_INTERNAL_ERROR = 1011


class OpenPiGateway(Gateway):
    """Listens for websockets; each is one client of the server.

    Args:
        server: that runs.
        config: address, model and keys.
    """

    def __init__(self, server: Server, config: OpenPiConfig) -> None:
        super().__init__(server)
        self._config = config
        self._keys = [key.get_secret_value().encode() for key in config.api_keys]
        self._listening: WebsocketServer | None = None
        self._names = map(f"openpi-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    @property
    def address(self) -> str:
        """As ws://HOST:PORT; RuntimeError while it does not listen."""
        if self._listening is None:
            raise RuntimeError("the openpi gateway does not listen: its address is known from start() to stop()")
        host, port = next(iter(self._listening.sockets)).getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    async def start(self) -> None:
        """As of `Gateway`."""
        config = self._config
        try:
            self._listening = await serve(
                self._robot,
                config.host,
                config.port,
                process_request=self._admit,
                compression=None,
                max_size=2 * self._server.config.observations.max_payload_bytes,
                logger=logging.getLogger("inferential.gateway.openpi.websockets"),
            )
        except OSError as error:
            where = f"{config.host}:{config.port}"
            # asyncio puts the address into the system's words once more.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(error.errno, f"gateways.openpi: cannot listen on {where}: {why}") from error

    async def stop(self) -> None:
        """As of `Gateway`."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
            await listening.wait_closed()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """An answer in place of a websocket: health, and who may not enter."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if path not in PATHS:
            return connection.respond(HTTPStatus.NOT_FOUND, f"no such path; robots connect to {' or '.join(PATHS)}\n")
        if self._keys and not self._knows(request.headers.get("Authorization", "")):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Api-Key KEY\n")
        return None

    def _knows(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        told = key.strip().encode()
        # All are compared, each in constant time: an answer's delay tells nothing of a key.
        return (scheme.lower() == "api-key") & any(
            [hmac.compare_digest(told, known) for known in self._keys]  # noqa: C419 (any() would stop at the first)
        )

    async def _robot(self, websocket: ServerConnection) -> None:
        assert websocket.request is not None
        try:
            name = websocket.request.headers.get(CLIENT_ID_HEADER) or next(self._names)
            connection = self._server.connect(name, "openpi")
        except ValueError as error:
            await _fail(websocket, f"{CLIENT_ID_HEADER}: {error}")
            return
        robot = Guest(connection, self._config.model)
        # Who waits for an answer when its robot goes is woken, and what it had waiting is not sent to anybody.
        websocket.connection_lost_waiter.add_done_callback(lambda _: robot.close())
        try:
            await websocket.send(pack(self._config.metadata))
            await self._converse(websocket, robot)
        except (ConnectionClosed, ConnectionError):
            logger.debug("%s is gone", name)
        finally:
            robot.close()

    async def _converse(self, websocket: ServerConnection, robot: Guest) -> None:
        last_total_ms: float | None = None
        async for message in websocket:
            began = time.monotonic()
            try:
                answer = await _answered(message, robot)
            except (InferenceError, TimeoutError, TypeError, ValueError) as error:
                await _fail(websocket, text_of(error))
                return
            if last_total_ms is not None:
                answer["server_timing"]["prev_total_ms"] = last_total_ms
            await websocket.send(pack(answer))
            last_total_ms = (time.monotonic() - began) * 1e3


async def _answered(message: str | bytes, robot: Guest) -> dict[str, Any]:
    if isinstance(message, str):
        raise ValueError("expected a binary message, got text")
    observation = unpack(message)
    if not isinstance(observation, dict):
        raise ValueError(f"expected a map of observations, got {type(observation).__name__}")
    result = await robot.infer(flat(observation))
    assert result.timing is not None
    return {
        **answer_of(result),
        "policy_timing": {"infer_ms": result.timing.inference_ms},
        "server_timing": {"infer_ms": result.timing.server_ms, "queue_ms": result.timing.queue_ms},
    }


async def _fail(websocket: ServerConnection, text: str) -> None:
    logger.info("%s: %s", websocket.remote_address, text)
    await websocket.send(text)
    await websocket.close(_INTERNAL_ERROR, "Internal server error. Traceback included in previous frame.")
