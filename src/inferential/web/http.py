"""Serves the live page, metrics and health over HTTP, to those who may read.

The content is made in `feed` and `telemetry.prometheus`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import Any, ClassVar
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from inferential.config.addresses import is_loopback
from inferential.config.services import HttpConfig, ServiceConfig
from inferential.config.tokens import KnownToken
from inferential.policies.tensors import read_specs
from inferential.server import Server
from inferential.server.http_listener import HttpListener
from inferential.server.service import Service
from inferential.telemetry.prometheus import CONTENT_TYPE, Exporter, text_of
from inferential.web.feed import Feed
from inferential.web.requests import RequestStream

logger: logging.Logger = logging.getLogger("inferential.web")

_SCRIPTS = ("app.js", "page.js", "fleet.js", "robot.js", "models.js", "timeline.js")
_STATIC = {"/": "index.html", "/style.css": "style.css", **{f"/{name}": name for name in _SCRIPTS}}
_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_ASK_S = 5.0  # how long a model may take to say what it takes; one behind another server is asked there
_LONGEST_S = 3600.0  # of watching requests
MAX_VIEWERS = 64
"""Open pages at once: each costs the event loop a little with every event."""
MAX_READERS = 8
"""Who may watch how requests end, which costs a little with each of them."""
_COOKIE = "inferential_token"
_HEADERS = {
    # Nothing from elsewhere is loaded, framed or sent to.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_SECURITY = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]


class HttpServer(Service):
    """Serves the page, its `/api`, `/metrics`, `/healthz` and `/readyz`; a context manager.

    It runs on the event loop of the server that it shows.

    Args:
        server: the running server to show.
        config: address and token.
    """

    Config: ClassVar[type[ServiceConfig]] = HttpConfig

    def __init__(self, server: Server, config: HttpConfig) -> None:
        super().__init__(server, config)
        self._feed = Feed(server)
        self._exporter = Exporter(server)
        self._readers = 0
        self._listener = HttpListener("http", config)

    @property
    def repeated(self) -> int:
        """How many probes were answered at once, as they came in the words of one before."""
        return self._listener.repeats.answered

    @property
    def address(self) -> str:
        """Its URL, as http://HOST:PORT, or https:// with TLS; raises RuntimeError while it does not listen."""
        address = self._listener.address
        if address is None:
            raise RuntimeError("the page is not served: its address is known from start() to stop()")
        return address

    def announcement(self) -> str:
        """Returns its URL."""
        return f"page on {self.address}"

    async def start(self) -> None:
        """Starts to listen.

        Raises:
            OSError: the address cannot be bound, or a file of TLS cannot be read.
        """
        await self._listener.start(self._app())
        config = self._config
        if config.token is None and not is_loopback(config.host):
            logger.warning(
                "http.host: any client that reaches %s can read the page; set http.token to restrict it", config.host
            )

    async def stop(self) -> None:
        """Closes all connections; does nothing if it is stopped already."""
        self._feed.close()
        await self._listener.stop()

    def _app(self) -> ASGIApp:
        routes = [
            *(Route(path, _file(name)) for path, name in _STATIC.items()),
            Route("/api/status", self._status),
            Route("/api/stream", self._stream),
            Route("/api/models", self._models),
            Route("/api/requests", self._requests),
            Route("/api/robots/{client_id:path}", self._robot),
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/readyz/{model_id:path}", self._model_readyz),
        ]
        token = None if self._config.token is None else self._config.token.get_secret_value()
        return _Guarded(Starlette(routes=routes), token, only_local=is_loopback(self._config.host))

    async def _status(self, request: Request) -> Response:
        return Response(await self._feed.now(), media_type="application/json")

    async def _models(self, request: Request) -> Response:
        ready = [model_id for model_id in self._server.model_states() if self._server.is_ready(model_id)]
        said = await asyncio.gather(*map(self._tensors, ready))
        return JSONResponse(dict(zip(ready, said, strict=True)))

    async def _tensors(self, model_id: str) -> dict[str, Any]:
        """Returns what a model takes and gives; empty lists where it does not say, or cannot be asked."""
        said: Mapping[str, Any] = {}
        with contextlib.suppress(Exception):  # a user's model, or a server that is away
            async with asyncio.timeout(_ASK_S):
                said = await self._server.model_metadata(model_id)
        return {key: [one.as_dict() for one in read_specs(said.get(key))] for key in ("inputs", "outputs")}

    async def _stream(self, request: Request) -> Response:
        if self._feed.viewers >= MAX_VIEWERS:
            return PlainTextResponse(f"{MAX_VIEWERS} pages are open already\n", 503)

        async def events() -> AsyncIterator[str]:
            async for event in self._feed.events():
                yield f"data: {event}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _requests(self, request: Request) -> Response:
        try:
            seconds = float(request.query_params.get("seconds", "20"))
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= _LONGEST_S:
            return PlainTextResponse(f"seconds: expected above 0, at most {_LONGEST_S:g}\n", 400)
        if self._readers >= MAX_READERS:
            return PlainTextResponse(f"{MAX_READERS} others watch requests already\n", 503)

        async def lines() -> AsyncIterator[str]:
            self._readers += 1
            try:
                async for some in RequestStream(self._server).lines(seconds):
                    yield some
            finally:
                self._readers -= 1

        return StreamingResponse(lines(), media_type="application/jsonl")

    async def _robot(self, request: Request) -> Response:
        found = self._feed.robot(request.path_params["client_id"])
        if found is None:
            return JSONResponse({"error": "no robot of that id"}, status_code=404)
        return Response(found, media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        text = bytearray()
        for family in self._exporter.families():
            text += text_of(family)
            await asyncio.sleep(0)  # robots are served between one and the next
        return Response(bytes(text), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, request: Request) -> Response:
        # The event loop answers, which is what robots need of it.
        return self._repeatable(request, lambda: PlainTextResponse("OK\n"))

    async def _readyz(self, request: Request) -> Response:
        return self._repeatable(request, self._readiness)

    async def _model_readyz(self, request: Request) -> Response:
        return self._repeatable(request, partial(self._model_readiness, request.path_params["model_id"]))

    def _repeatable(self, request: Request, make: Callable[[], Response]) -> Response:
        """Returns a response, and has others that are asked for in the same words made here too, without the way."""

        def complete() -> Response:
            response = make()
            response.raw_headers = _guarded(response.raw_headers)
            return response

        self._listener.repeats.learn(request.scope, complete)
        return make()

    def _readiness(self) -> Response:
        blocking = self._server.readiness()
        problems = list(dict.fromkeys(blocking + self._server.impairments()))
        content = {"ready": not blocking, "problems": problems, "models": self._server.model_states()}
        return _JsonLine(content, status_code=503 if blocking else 200)

    def _model_readiness(self, model_id: str) -> Response:
        found = self._server.model_states().get(model_id)
        if found is None:
            return _JsonLine({"ready": False, "model": model_id, "state": "unknown"}, status_code=404)
        ready = found["state"] == "ready"
        return _JsonLine({"ready": ready, "model": model_id, **found}, status_code=200 if ready else 503)


class _JsonLine(JSONResponse):
    """JSON that ends its line, for who reads it in a terminal."""

    def render(self, content: Any) -> bytes:
        return super().render(content) + b"\n"


def _file(name: str) -> Any:
    content = (resources.files("inferential.web") / "static" / name).read_bytes()

    async def get(request: Request) -> Response:
        return Response(content, headers={"Content-Type": _TYPES[name.rpartition(".")[2]]})

    return get


class _Guarded:
    """Refuses readers without access, and adds security headers to every response.

    A page that listens on loopback alone answers only to loopback names: under another site's name that resolves to
    this machine (DNS rebinding), that site's scripts could read it.

    Starlette's own middleware does not fit: TrustedHostMiddleware takes a list of names, not a network as 127.0.0.0/8,
    and AuthenticationMiddleware cannot exchange the token of a first URL for a cookie.
    """

    def __init__(self, app: ASGIApp, token: str | None, *, only_local: bool) -> None:
        self._app = app
        self._token = None if token is None else KnownToken("http.token", token)
        self._only_local = only_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _guarded(message["headers"])
            await send(message)

        refusal = self._refusal(Request(scope))
        await (self._app if refusal is None else refusal)(scope, receive, sending)

    def _refusal(self, request: Request) -> Response | None:
        if self._only_local and not is_loopback((request.url.hostname or "").strip("[]")):
            return PlainTextResponse("this page listens on loopback only: open it as http://localhost\n", 403)
        if self._token is None or request.url.path == "/healthz" or self._may(_bearer(request)):
            return None
        if self._may(request.cookies.get(_COOKIE, "")):
            return None
        asked = parse_qs(request.url.query).get("token", [""])[0]
        if self._may(asked):
            response = RedirectResponse(request.url.path)  # the token does not stay in the address line
            secure = request.url.scheme == "https"
            response.set_cookie(_COOKIE, asked, httponly=True, samesite="strict", secure=secure)
            return response
        return PlainTextResponse("expected Authorization: Bearer TOKEN, or ?token=TOKEN once\n", 401)

    def _may(self, token: str) -> bool:
        return self._token is not None and self._token.matches(token)


def _guarded(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Returns headers of a response with those of security, as far as they are not there."""
    present = {name.lower() for name, _ in headers}
    return [*headers, *(one for one in _SECURITY if one[0] not in present)]


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
