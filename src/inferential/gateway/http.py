"""What gateways over HTTP share: listening, bodies within limits, and who a request's client is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import zlib
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any, ClassVar, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from inferential import errors
from inferential.config.gateways import HttpGatewayConfig
from inferential.config.tokens import KnownTokens
from inferential.errors import InferentialError
from inferential.gateway.base import Gateway, GatewayClient, describe_error
from inferential.server import Server
from inferential.server.http_listener import HttpListener
from inferential.server.inprocess import InProcessConnection

logger = logging.getLogger("inferential.gateway.http")

CLIENT_ID_HEADER = "X-Client-Id"
"""A client that sends this header is known by its value; the others by their machine."""
RECEIVE_S = 30.0
"""How long the body of a request may take."""
FORGET_S = 60.0
"""After this long without a request a client is forgotten."""
_MAX_CLIENTS = 4096
_MAX_AT_ONCE = 1024  # connections and requests; uvicorn answers 503 to more

_STATUS: dict[type[BaseException], HTTPStatus] = {
    errors.InvalidObservation: HTTPStatus.BAD_REQUEST,
    errors.UnknownModel: HTTPStatus.NOT_FOUND,
    errors.RequestRejected: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RequestExpired: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RequestSuperseded: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    TimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
    ConnectionError: HTTPStatus.SERVICE_UNAVAILABLE,
    TypeError: HTTPStatus.BAD_REQUEST,
    ValueError: HTTPStatus.BAD_REQUEST,
}

_AnswerT = TypeVar("_AnswerT")


class RequestRefused(InferentialError):
    """Ends a request with a status and a text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        self.status = status
        super().__init__(text)


class HttpGateway(Gateway):
    """Listens for HTTP; a subclass has the routes.

    A client is a client of the server by its header `X-Client-Id`. Without it each of its requests at one time is
    answered as one of the clients that its machine has.

    Args:
        server: a running server.
        config: address, tokens, and what else the section has.

    Attributes:
        name: of its section, `gateways.NAME`, and of its clients' kind.
    """

    name: ClassVar[str]

    def __init__(self, server: Server, config: HttpGatewayConfig) -> None:
        super().__init__(server, config)
        self._config: HttpGatewayConfig = config
        self._tokens = KnownTokens(f"gateways.{self.name}.token", config.token)
        self._listener = HttpListener(f"gateways.{self.name}", config, limit_concurrency=_MAX_AT_ONCE)
        self._clients: dict[str, list[HttpClient]] = {}
        self._names = map(f"{self.name}-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    def routes(self) -> list[BaseRoute]:
        """Returns what is served."""
        raise NotImplementedError

    def refusal(self, status: HTTPStatus, text: str) -> Response:
        """Returns the response that tells an error."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """As http://HOST:PORT, or https:// with TLS; RuntimeError while it does not listen."""
        address = self._listener.address
        if address is None:
            raise RuntimeError(f"the {self._config.title} does not listen; its address is known between start and stop")
        return address

    async def start(self) -> None:
        """Begins to listen; OSError if the address cannot be bound, or a file of TLS cannot be read."""
        await self._listener.start(Starlette(routes=self.routes()))

    async def stop(self) -> None:
        """Ends all connections. Idempotent."""
        for client in [one for group in self._clients.values() for one in group]:
            self.forget(client)
        await self._listener.stop()

    def answering(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Returns an endpoint that answers every request: what `answer` returns, or the error that it raised."""

        async def endpoint(request: Request) -> Response:
            try:
                request.state.client_id = self._client_id(request)  # before the body is read
                return await answer(request)
            except RequestRefused as error:
                status, text = error.status, str(error)
            except tuple(_STATUS) as error:
                status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
                text = describe_error(error)
            except Exception:
                logger.exception("a request of the client at %s failed", request.client)
                status, text = HTTPStatus.INTERNAL_SERVER_ERROR, "internal error of the server; its log has more"
            logger.info("%s: %s", request.client, text)
            return self.refusal(status, text)

        return endpoint

    def _client_id(self, request: Request) -> str:
        """Returns the client's id, of its token or as it says itself; "" if it has none.

        Raises:
            RequestRefused: it has no token, or the id is another client's.
        """
        holder: str | None = ""
        if self._tokens:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            holder = self._tokens.holder(token.strip()) if scheme.lower() == "bearer" else None
        if holder is None:
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Bearer TOKEN")
        try:
            return self._tokens.client_id(holder, request.headers.get(CLIENT_ID_HEADER, ""))
        except ValueError as error:
            raise RequestRefused(HTTPStatus.FORBIDDEN, f"{CLIENT_ID_HEADER}: {error}") from error

    async def body(self, request: Request) -> bytearray:
        """Returns the body of a request, of twice `observations.max_payload_bytes` at most, also once it is unpacked.

        Raises:
            RequestRefused: it is larger, takes longer than `RECEIVE_S`, or its encoding is not known.
            ConnectionError: the client has left.
        """
        limit = 2 * self._server.config.observations.max_payload_bytes
        unpack = _unpacker(request.headers.get("Content-Encoding", "identity").lower())
        body = bytearray()
        try:
            async with asyncio.timeout(RECEIVE_S):
                async for piece in request.stream():
                    body += unpack(piece, limit + 1 - len(body))
                    if len(body) > limit:
                        text = f"a body of more than {limit} bytes (twice observations.max_payload_bytes)"
                        raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        except TimeoutError as error:
            text = f"the body has not arrived within {RECEIVE_S:g} s"
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, text) from error
        except ClientDisconnect as error:
            raise ConnectionError("the client has left") from error
        return body

    @contextlib.contextmanager
    def client(self, request: Request) -> Iterator[HttpClient]:
        """Gives the client of the server that a request belongs to, for as long as it is answered."""
        client_id: str = request.state.client_id
        group = f"id {client_id}" if client_id else f"at {request.client.host if request.client else ''}"
        known = reversed(self._clients.get(group, []))
        client = next((one for one in known if client_id or not one.requests), None)
        if client is None:
            client = self._connect(client_id or next(self._names), group)
        client.requests += 1
        if client.forgetting is not None:
            client.forgetting.cancel()
        try:
            yield client
        finally:
            client.requests -= 1
            if client.requests == 0 and client in self._clients.get(group, ()):
                client.forgetting = asyncio.get_running_loop().call_later(FORGET_S, self.forget, client)

    async def until_answered(self, client: HttpClient, answering: Awaitable[_AnswerT], request: Request) -> _AnswerT:
        """Returns the answer; if the client leaves meanwhile, its place in the queue is free at once.

        Raises:
            ConnectionError: the client has left.
        """
        answered = asyncio.ensure_future(answering)
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((answered, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                if client.requests == 1:
                    self.forget(client)
                raise ConnectionError("the client has left")
            return await answered
        finally:
            answered.cancel()
            leaving.cancel()

    def _connect(self, name: str, group: str) -> HttpClient:
        if sum(map(len, self._clients.values())) >= _MAX_CLIENTS:
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"{_MAX_CLIENTS} clients are connected")
        try:
            connection = self._server.connect(name, self.name)
        except ValueError as error:
            raise ValueError(f"{CLIENT_ID_HEADER}: {error}") from error
        client = HttpClient(group, connection)
        self._clients.setdefault(group, []).append(client)
        return client

    def forget(self, client: HttpClient) -> None:
        """Ends a client of the server."""
        client.connection.close()
        group = self._clients.get(client.group, [])
        if client in group:
            group.remove(client)
        if not group:
            self._clients.pop(client.group, None)


class HttpClient:
    """One client of the server, and how many requests it has.

    Args:
        group: whose requests it answers.
        connection: to the server.
    """

    def __init__(self, group: str, connection: InProcessConnection) -> None:
        self.group = group
        self.connection = connection
        self.requests = 0
        self.forgetting: asyncio.TimerHandle | None = None
        self._robots: dict[tuple[Any, ...], GatewayClient] = {}

    def robot(self, model_id: str, timeout_ms: float, **arguments: Any) -> GatewayClient:
        """Returns the client for a model.

        Args:
            model_id, timeout_ms: as for `GatewayClient`.
            arguments: of its handle, `Connection.model`.
        """
        key = (model_id, timeout_ms, *sorted(arguments.items()))
        robot = self._robots.get(key)
        if robot is None:
            if len(self._robots) >= _MAX_HANDLES:
                self._robots.clear()
            robot = self._robots[key] = GatewayClient(self.connection, model_id, timeout_ms, **arguments)
        return robot


_MAX_HANDLES = 16


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """Returns a function of a piece of a body and of how many bytes it may become at most."""
    if encoding in ("", "identity"):
        return lambda piece, _: piece
    if encoding not in ("gzip", "deflate"):
        text = f"Content-Encoding: expected gzip, deflate or none, got {encoding!r}"
        raise RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
    inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header

    def unpack(piece: bytes, most: int) -> bytes:
        try:
            return inflating.decompress(piece, most)
        except zlib.error as error:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, f"Content-Encoding: {error}") from error

    return unpack


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
