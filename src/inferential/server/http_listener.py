"""Listens for HTTP beside a server, on its event loop: the live page, and gateways over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from inferential.notices import Notices
from inferential.server.repeats import Headers, PromptSocket, Repeats, is_head
from inferential.server.tls import check_tls
from inferential.transport.descriptors import has_room, is_room, make_room_on
from inferential.transport.silent import SILENT

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger: logging.Logger = logging.getLogger("inferential.server.http")

HEAD_S = 10.0
"""How long the head of a request may take, from the connection or from its first byte on, and TLS before it."""
HEAD_BYTES = 64 * 1024
"""Of the head of a request, and of what else is not its body: sizes of chunks, and fields behind them."""
_CHUNK_BYTES = 16  # beside each byte of a body, however small its chunks are
PIPELINED = 16
"""Requests of a connection that may wait until those before them are answered."""
BACKLOG = 128
"""Connections that may wait until they are accepted."""
ACCEPT_AT_ONCE = 1
"""In one turn of the event loop: asyncio's `backlog`, which goes to the system too, so that `listen(BACKLOG)` must
follow. Where no descriptor is left, asyncio logs, and sets a timer to try again, as often as that for each turn."""
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
        self.repeats: Repeats = Repeats()
        """What the application has answered at once, and may be answered again without it."""
        self._socket: PromptSocket | None = None
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
        listening = PromptSocket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, config.port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            where = f"{config.host}:{config.port}"
            raise OSError(error.errno, f"{self._section}: cannot listen on {where}: {error.strerror}") from error
        self._socket = listening
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                http=_TimedProtocol,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                limit_concurrency=self._limit_concurrency,
                ws="none",
                ssl_certfile=config.tls_certificate,
                ssl_keyfile=config.tls_key,
            ),
            self.repeats,
        )
        if config.tls_certificate is None:
            listening.repeats = self.repeats
            listening.headers = self._uvicorn.headers
        self._serving = asyncio.get_running_loop().create_task(self._uvicorn.serve([listening]))

    async def stop(self) -> None:
        """Closes all connections; does nothing if it is stopped already."""
        if self._socket is None or self._uvicorn is None or self._serving is None:
            return
        self._uvicorn.end()
        await self._serving
        self._socket.close()
        self._socket = None


_Given = ParamSpec("_Given")
_MadeT = TypeVar("_MadeT")


def before_tls(make: Callable[_Given, _MadeT], tls: ssl.SSLContext | None) -> Callable[_Given, _MadeT]:
    """Returns what makes protocols for new connections, and none where few descriptors are left and TLS comes first.

    asyncio closes a connection for which none is made. Without TLS a protocol sees itself which connection it has.
    """
    if tls is None:
        return make

    def made(*given: _Given.args, **named: _Given.kwargs) -> _MadeT:
        if not is_room():
            raise ConnectionAbortedError("few file descriptors are left")
        return make(*given, **named)

    return made


class _Once(logging.Filter):
    """Lets warnings through once a minute, and none about what `send_400_response` says."""

    def __init__(self) -> None:
        super().__init__()
        self._notices = Notices(logger)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.WARNING:
            return True
        text = record.getMessage()
        if not text.startswith("Invalid HTTP request"):
            self._notices.say(text, "%s", text, level=record.levelno)
        return False


_uvicorn_logger = logging.getLogger("inferential.server.http.uvicorn")
_uvicorn_logger.addFilter(_Once())


class _TimedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Ends connections on which no request comes, or half of one, or what is larger around its body than any client's
    is, and takes none where descriptors are needed for robots.

    What `httptools` calls is not called where uvicorn has h11 in its place, which has such limits itself.
    """

    _notices = Notices(logger)
    _overdue: asyncio.TimerHandle | None = None
    _in_message = False
    _has_ended_one = False  # the data that was last received
    _around = _body = 0  # bytes of the message

    def on_message_begin(self) -> None:
        self._in_message, self._around, self._body = True, 0, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests at once")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        SILENT.forget(self)
        self._in_message, self._has_ended_one = False, True
        super().on_message_complete()

    def __init__(self, *arguments: Any, repeats: Repeats, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = _uvicorn_logger
        self._repeats = repeats
        self._is_whole = True  # all that has come were requests without a body, each as it was sent

    def send_400_response(self, msg: str) -> None:
        host = self.client[0] if self.client else ""
        what = "what came is no HTTP/1.1 request" if msg.startswith("Invalid") else msg
        self._notices.say((host, msg), "%s: %s", host, what)
        super().send_400_response(msg)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        accepted = transport.get_extra_info("socket")
        if accepted is not None and not has_room(accepted.fileno()):
            text = "connections to %s:%d are closed: few file descriptors are left (ulimit -n), which robots need"
            self._notices.say("scarce", text, *accepted.getsockname()[:2], level=logging.WARNING)
            transport.abort()
            return
        SILENT.note(self, transport.abort)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._answer_again(data):
            return
        cycle, before, self._has_ended_one = self.cycle, self._body, False
        super().data_received(data)
        is_new = self.cycle is not cycle and not self.cycle.more_body
        self._is_whole = is_new and self._is_whole and is_head(data)
        if self._is_whole:
            self._repeats.note(self.cycle.scope, data, stays=self.cycle.keep_alive)
        if self._in_message and not self._has_ended_one:  # else it is not known how much is of which request
            self._around += len(data) - max(self._body - before, 0)
            if self._around > HEAD_BYTES + _CHUNK_BYTES * self._body:
                self.send_400_response(f"more than {HEAD_BYTES} bytes of a request that are not its body")
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()
        else:
            self._stop_expecting()

    def _answer_again(self, data: bytes) -> bool:
        """Answers a request that was answered before; False: this is none, or others come before it."""
        if not self._is_whole or self.flow.write_paused or not (self.cycle is None or self.cycle.response_complete):
            return False
        found = self._repeats.answer(data, self.server_state.default_headers)
        if found is None:
            return False
        SILENT.forget(self)
        self._stop_expecting()
        self.transport.write(found.data)
        if found.stays:
            self.on_response_complete()  # which limits how long the next may take
        else:
            self.transport.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        SILENT.forget(self)
        self._stop_expecting()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._overdue is None:
            self._overdue = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_expecting(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the policy server, and sleeps until it is to end: uvicorn itself looks ten times a second."""

    def __init__(self, config: uvicorn.Config, repeats: Repeats) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()
        self._repeats = repeats

    def headers(self) -> Headers:
        """Returns those of any answer, the date among them."""
        return self.server_state.default_headers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Does what uvicorn's does for sockets, which would let TLS take a minute."""
        config, loop = self.config, asyncio.get_running_loop()
        state: dict[str, Any] = {"server_state": self.server_state, "app_state": self.lifespan.state}
        make_room_on(loop)
        make = before_tls(partial(_TimedProtocol, config=config, repeats=self._repeats, **state), config.ssl)
        tls_s = None if config.ssl is None else HEAD_S
        self.servers = []
        for one in sockets or ():
            listening = loop.create_server(
                make, sock=one, ssl=config.ssl, ssl_handshake_timeout=tls_s, backlog=ACCEPT_AT_ONCE
            )
            self.servers.append(await listening)
            one.listen(BACKLOG)
        self.started = True

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
