"""What gateways over HTTP share: listening, bodies within limits, and who a request's client is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import zlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import ClassVar, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from inferential.config.gateways import HttpGatewayConfig
from inferential.gateway.aside import Aside
from inferential.gateway.base import Gateway
from inferential.gateway.clients import CLIENT_ID_HEADER, Clients, ServedClient
from inferential.gateway.receiving import RECEIVE_S, Receiving
from inferential.gateway.refusals import RequestRefused, is_of_message, refusal_of
from inferential.notices import Notices
from inferential.server import Server
from inferential.server.http_listener import HttpListener

logger: logging.Logger = logging.getLogger("inferential.gateway.http")

_MAX_TEXT = 2048  # of what a client is sent
UNPACK_BYTES = 1024 * 1024
"""Of a packed body at once; between two such the event loop is left to others."""
_MAX_AT_ONCE = 1024  # connections and requests; uvicorn answers 503 to more

_AnswerT = TypeVar("_AnswerT")


class HttpGateway(Gateway):
    """Listens for HTTP; a subclass has the routes.

    A client is a client of the server by its header `X-Client-Id`. Without it each of its requests at one time is
    answered as one of the clients that its machine has.

    Args:
        server: a running server.
        config: address, tokens, and what else the section has.

    Attributes:
        name: of its section, `gateways.NAME`, and of its clients' kind.
        aside: reads and writes messages, large ones in a process of its own.
    """

    name: ClassVar[str]

    def __init__(self, server: Server, config: HttpGatewayConfig) -> None:
        super().__init__(server, config)
        self._config: HttpGatewayConfig = config
        self._clients = Clients(server, self.name, config)
        self._received = Receiving(self._largest)
        self.aside: Aside = Aside()
        self._notices = Notices(logger)
        self._listener = HttpListener(f"gateways.{self.name}", config, limit_concurrency=_MAX_AT_ONCE)

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
        refused = {HTTPStatus.METHOD_NOT_ALLOWED: self._refuse_method, HTTPStatus.NOT_FOUND: self._refuse_path}
        await self._listener.start(Starlette(routes=self.routes(), exception_handlers=refused))

    async def stop(self) -> None:
        """Ends all connections. Idempotent."""
        self._clients.close()
        await self._listener.stop()
        await self.aside.close()

    def answering(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Returns an endpoint that answers every request: what `answer` returns, or the error that it raised."""

        async def endpoint(request: Request) -> Response:
            try:
                headers = request.headers
                request.state.client_id = self._clients.id_of(  # before the body is read
                    headers.get("Authorization", ""), headers.get(CLIENT_ID_HEADER, "")
                )
                return await answer(request)
            except Exception as error:
                if is_of_message(error):
                    self.count_ended_here(getattr(request.state, "client_id", "") or self.name)
                status, text = refusal_of(error, request.client)
            host = request.client.host if request.client else ""
            self._notices.say((host, text[:80]), "%s: %s", host, text)
            return self.refusal(status, text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")

        return endpoint

    async def _refuse_method(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        asked = (error.headers or {}).get("Allow", "another method")
        text = f"{request.url.path} is asked by {asked}, not by {request.method}"
        return self.refusal(HTTPStatus.METHOD_NOT_ALLOWED, text)

    async def _refuse_path(self, request: Request, _: Exception) -> Response:
        paths = ", ".join(route.path for route in self.routes() if isinstance(route, Route))
        return self.refusal(HTTPStatus.NOT_FOUND, f"nothing is served at {request.url.path}; there is: {paths}")

    async def body(self, request: Request, most: float = math.inf) -> bytearray:
        """Returns the body of a request, of twice `observations.max_payload_bytes` at most, also once it is unpacked.

        Args:
            request: that has it.
            most: bytes that it may have beside that limit.

        Raises:
            RequestRefused: it is larger, takes longer than `RECEIVE_S`, or its encoding is not known.
            ConnectionError: the client has left.
        """
        unpack = _Unpacking(request.headers.get("Content-Encoding", "identity").lower())
        body = bytearray()
        try:
            async with asyncio.timeout(RECEIVE_S) as within:
                async for piece in request.stream():
                    await self._add(body, piece, unpack, most)
                    self._received.note(request, len(body), partial(within.reschedule, 0.0))
        except TimeoutError as error:
            if within.when() == 0.0:
                text = "too much arrives from others at once: send it again"
                raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, text) from error
            text = f"the body has not arrived within {RECEIVE_S:g} s"
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, text) from error
        except ClientDisconnect as error:
            raise ConnectionError("the client has left") from error
        finally:
            self._received.done(request)
        unpack.check_end()
        return body

    @property
    def _largest(self) -> int:
        return 2 * self._server.config.observations.max_payload_bytes

    async def _add(self, body: bytearray, piece: bytes, unpack: _Unpacking, most: float) -> None:
        """Adds a piece, unpacked, to a body.

        Raises:
            RequestRefused: the body is too large.
        """
        limit = min(self._largest, most)
        while piece:
            unpacked, piece = unpack(piece, UNPACK_BYTES)
            body += unpacked
            if len(body) > limit:
                which = "as JSON" if limit == most else "twice observations.max_payload_bytes"
                text = f"a body of more than {limit} bytes ({which})"
                raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
            if piece:
                await asyncio.sleep(0)

    @contextlib.contextmanager
    def client(self, request: Request) -> Iterator[ServedClient]:
        """Gives the client of the server that a request belongs to, for as long as it is answered."""
        with self._clients.client(request.state.client_id, request.client.host if request.client else "") as client:
            yield client

    async def until_answered(self, client: ServedClient, answering: Awaitable[_AnswerT], request: Request) -> _AnswerT:
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
                    self._clients.forget(client)
                raise ConnectionError("the client has left")
            return await answered
        finally:
            answered.cancel()
            leaving.cancel()
            del answered, answering  # an error of theirs refers to this frame, and by those below it to the body


class _Unpacking:
    """Unpacks a body piece by piece.

    Args:
        encoding: its Content-Encoding.

    Raises:
        RequestRefused: of an encoding that is not known.
    """

    def __init__(self, encoding: str) -> None:
        if encoding not in ("", "identity", "gzip", "deflate"):
            text = f"Content-Encoding: expected gzip, deflate or none, got {encoding[:40]!r}"
            raise RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
        is_packed = encoding in ("gzip", "deflate")
        self._inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32) if is_packed else None  # either header

    def __call__(self, piece: bytes, most: int) -> tuple[bytes, bytes]:
        """Returns what a piece becomes, up to `most` bytes of it, and what is left of the piece.

        Raises:
            RequestRefused: it is not what the encoding says.
        """
        if self._inflating is None:
            return piece, b""
        try:
            unpacked = self._inflating.decompress(piece, most)
        except zlib.error as error:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, f"Content-Encoding: {error}") from error
        if self._inflating.unused_data:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "Content-Encoding: there are bytes behind the packed body")
        return unpacked, self._inflating.unconsumed_tail

    def check_end(self) -> None:
        """Checks that the body was whole.

        Raises:
            RequestRefused: it was not.
        """
        if self._inflating is not None and not self._inflating.eof:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "Content-Encoding: the packed body is cut short")


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
