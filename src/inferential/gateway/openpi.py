"""openpi's websocket policy protocol.

After the connection is made the server sends one map of metadata; then each binary message is an observation and is
answered by one binary message. A text message is an error, after which the connection ends with code 1011, since the
client cannot go on. `GET /healthz` answers OK. (openpi, `websocket_policy_server.py`; openpi-client 0.1.2.)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

from websockets.asyncio.server import Server as WebsocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.http11 import Request, Response

from inferential.config.gateways import OpenPiConfig
from inferential.config.services import GatewayConfig
from inferential.config.tokens import KnownTokens
from inferential.errors import InferenceError, system_reason
from inferential.gateway.base import Gateway, GatewayClient, describe_error
from inferential.gateway.receiving import Receiving
from inferential.gateway.websocket import BoundedConnection, peer_of
from inferential.notices import Notices
from inferential.proto.msgpack_numpy import pack, unpack
from inferential.server import Server, http_listener
from inferential.server.http_listener import ACCEPT_AT_ONCE, BACKLOG, before_tls
from inferential.server.tls import check_tls
from inferential.transport.descriptors import make_room_on
from inferential.transport.keepalive import enable_keepalive
from inferential.transport.silent import SILENT

logger: logging.Logger = logging.getLogger("inferential.gateway.openpi")

PATHS = ("/", "/v1/realtime/robot/openpi")
CLIENT_ID_HEADER = "X-Client-Id"
"""A robot that sends this header is known by its value; the others get a name."""
ANSWER_S = 0.4
"""How long the connection of a robot has to answer when the robot connects again."""
_INTERNAL_ERROR = 1011
_websockets_logger = logging.getLogger("inferential.gateway.openpi.websockets")
_websockets_logger.setLevel(logging.WARNING)  # it has a line for each connection that comes and goes
# Up to websockets 16 each client that speaks no websocket leaves a traceback in the log.
_websockets_logger.addFilter(lambda record: record.msg != "opening handshake failed")


def _is_own_failure(record: logging.LogRecord) -> bool:
    """Returns False for a peer that is no websocket client, or left: websockets 15 logs it with a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, InvalidHandshake | EOFError | OSError)


_websockets_logger.addFilter(_is_own_failure)


class OpenPiGateway(Gateway):
    """Listens for websockets; each is one client of the server.

    Args:
        server: a running server.
        config: address, model and keys.
    """

    Config: ClassVar[type[GatewayConfig]] = OpenPiConfig

    def __init__(self, server: Server, config: OpenPiConfig) -> None:
        super().__init__(server, config)
        self._keys = KnownTokens("gateways.openpi.api_keys", config.api_keys)
        self._listening: WebsocketServer | None = None
        self._robots: dict[str, ServerConnection] = {}  # by client id
        self._names = map(f"openpi-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    @property
    def address(self) -> str:
        """As ws://HOST:PORT, or wss:// with TLS; RuntimeError while it does not listen."""
        if self._listening is None:
            raise RuntimeError("the openpi gateway does not listen; its address is known between start() and stop()")
        host, port = next(iter(self._listening.sockets)).getsockname()[:2]
        scheme = "ws" if self._config.tls_certificate is None else "wss"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def start(self) -> None:
        """Begins to listen; OSError if the address cannot be bound, or a file of TLS cannot be read."""
        config, largest = self._config, 2 * self._server.config.observations.max_payload_bytes
        tls = check_tls("gateways.openpi", config.tls_certificate, config.tls_key)
        make_room_on(asyncio.get_running_loop())
        try:
            self._listening = await serve(
                self._robot,
                config.host,
                config.port,
                ssl=tls,
                process_request=self._admit,
                compression=None,
                ping_timeout=None,  # a robot that is busy, or a process that was, is not gone; TCP finds out who is
                max_size=largest,
                max_queue=1,
                create_connection=before_tls(  # type: ignore[arg-type]
                    partial(BoundedConnection, Receiving(largest)), tls
                ),
                logger=_websockets_logger,
                backlog=ACCEPT_AT_ONCE,
                ssl_handshake_timeout=None if tls is None else http_listener.HEAD_S,
            )
            for one in self._listening.sockets:
                with one.dup() as listening:
                    listening.listen(BACKLOG)
        except OSError as error:
            where = f"{config.host}:{config.port}"
            raise OSError(error.errno, f"gateways.openpi: cannot listen on {where}: {system_reason(error)}") from error

    async def stop(self) -> None:
        """Ends all connections. Idempotent."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
            await listening.wait_closed()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Returns an HTTP answer in place of a websocket: health, and refusals."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if path not in PATHS:
            return connection.respond(HTTPStatus.NOT_FOUND, f"no such path; robots connect to {' or '.join(PATHS)}\n")
        if self._holder(request) is None:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Api-Key KEY\n")
        return None

    def _holder(self, request: Request) -> str | None:
        """Returns the id of the robot whose key it shows, "" for a key of no robot's own; None: it may not connect."""
        if not self._keys:
            return ""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        holder = self._keys.holder(key.strip())
        return holder if scheme.lower() == "api-key" else None

    async def _robot(self, websocket: ServerConnection) -> None:
        assert websocket.request is not None
        try:
            asked = websocket.request.headers.get(CLIENT_ID_HEADER) or ""
            name = self._keys.client_id(self._holder(websocket.request) or "", asked) or next(self._names)
            if name in self._robots:
                await self._end_if_gone(name)
            connection = self._server.connect(name, "openpi")
        except ValueError as error:
            await _fail(websocket, f"{CLIENT_ID_HEADER}: {error}")
            return
        self._robots.setdefault(name, websocket)
        enable_keepalive(websocket.transport.get_extra_info("socket"))
        robot = GatewayClient(connection, self._config.model, self._config.timeout_ms)
        # A robot that leaves while it waits frees its place at once; its answer is dropped.
        websocket.connection_lost_waiter.add_done_callback(lambda _: robot.close())
        try:
            await self._converse(websocket, robot, name)
        except ConnectionClosed as error:
            assert isinstance(websocket, BoundedConnection)
            if websocket.refused(error):
                self.count_ended_here(name)
            logger.debug("%s has left", name)
        except ConnectionError:
            logger.debug("%s has left", name)
        finally:
            robot.close()
            if self._robots.get(name) is websocket:
                del self._robots[name]

    async def _end_if_gone(self, name: str) -> None:
        """Ends the connection of a robot that has come again, if the former one does not answer any more.

        A robot that crashed or lost its network leaves a connection that looks open until TCP gives up.
        """
        former = self._robots[name]
        try:
            async with asyncio.timeout(ANSWER_S):
                await (await former.ping())
        except TimeoutError:
            logger.info("%s connected again: its former connection does not answer", name)
            former.transport.abort()
            await former.wait_closed()
        except ConnectionClosed:
            await former.wait_closed()

    async def _converse(self, websocket: ServerConnection, robot: GatewayClient, name: str) -> None:
        try:
            await websocket.send(pack({**await self._model_metadata(), **self._config.metadata}))
        except (TypeError, ValueError) as error:
            await _fail(websocket, f"metadata of model {self._config.model!r}: {error}")
            return
        last_total_ms: float | None = None
        async for message in websocket:
            SILENT.forget(websocket)
            began = time.monotonic()
            try:
                packed = await _answered(message, robot, last_total_ms)
            except (InferenceError, TimeoutError, ConnectionError) as error:
                await _fail(websocket, describe_error(error))
                return
            except Exception as error:  # whatever a decoder or an encoder raises
                self.count_failure(name, error)
                await _fail(websocket, describe_error(error))
                return
            await websocket.send(packed)
            last_total_ms = (time.monotonic() - began) * 1e3

    async def _model_metadata(self) -> Mapping[str, Any]:
        model_id = self._config.model
        try:
            async with asyncio.timeout(self._config.timeout_ms / 1e3):
                return await self._server.model_metadata(model_id)
        except Exception as error:  # of a policy server that is down, or of a model's own code
            logger.warning("no metadata of model %s for the robot: %s", model_id, describe_error(error))
            return {}


async def _answered(message: str | bytes, robot: GatewayClient, last_total_ms: float | None) -> bytes:
    if isinstance(message, str):
        raise ValueError("expected a binary message, got text")
    observation = unpack(message)
    if not isinstance(observation, dict):
        raise ValueError(f"expected a map of observations, got {type(observation).__name__}")
    answer = await robot.infer(observation)
    timing = {"infer_ms": answer.timing.server_ms, "queue_ms": answer.timing.queue_ms}
    if last_total_ms is not None:
        timing["prev_total_ms"] = last_total_ms
    values = answer.values
    return pack(
        {
            **values,
            "policy_timing": {"infer_ms": answer.timing.inference_ms, **_map(values.get("policy_timing"))},
            "server_timing": {**_map(values.get("server_timing")), **timing},
        }
    )


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_notices = Notices(logger)


async def _fail(websocket: ServerConnection, text: str) -> None:
    _notices.say((websocket.remote_address[0], text[:80]), "%s: %s", peer_of(websocket), text)
    await websocket.send(text)
    await websocket.close(_INTERNAL_ERROR, "Internal server error. Traceback included in previous frame.")
