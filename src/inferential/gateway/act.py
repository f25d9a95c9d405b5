"""`POST /act` with JSON: clients of OpenVLA's server, and of MolmoAct's and others that took its form.

    request   a map of arrays, texts and numbers, as {"image": ..., "instruction": "pick"}; arrays as json-numpy writes
    answer    the actions alone; a map {"actions": ..., "dt_ms": ...} where the request has num_steps
    doubled   {"encoded": JSON text of the request} is answered by a JSON string that holds the JSON of the answer
    errors    {"error": text} with a status of HTTP

(OpenVLA, `vla-scripts/deploy.py`; inspect-robots-yam 0.37.0, `policy.py`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from inferential import errors
from inferential.config.gateways import ActConfig
from inferential.config.services import GatewayConfig
from inferential.config.tokens import KnownTokens
from inferential.errors import InferentialError
from inferential.gateway.base import Gateway, GatewayAnswer, GatewayClient, describe_error
from inferential.gateway.json_numpy import dumps, loads
from inferential.server import Server
from inferential.server.tls import check_tls

logger: logging.Logger = logging.getLogger("inferential.gateway.act")

CLIENT_ID_HEADER = "X-Client-Id"
"""A robot that sends this header is known by its value; the others by their machine."""
RECEIVE_S = 30.0
"""How long the body of a request may take."""
FORGET_S = 60.0
"""After this long without a request a robot is forgotten."""
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


class _RequestRefused(InferentialError):
    """Ends a request with a status and a text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        self.status = status
        super().__init__(text)


class ActGateway(Gateway):
    """Listens for HTTP.

    A robot is a client of the server by its header `X-Client-Id`. Clients of this kind make a new connection for each
    request, so without the header a machine has as many clients of the server as it had requests at once.

    Args:
        server: a running server.
        config: address, model and token.
    """

    Config: ClassVar[type[GatewayConfig]] = ActConfig

    def __init__(self, server: Server, config: ActConfig) -> None:
        super().__init__(server, config)
        self._tokens = KnownTokens("gateways.act.token", config.token)
        self._socket: socket.socket | None = None
        self._uvicorn: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None
        self._clients: dict[str, list[_Client]] = {}
        self._names = map(f"act-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    @property
    def address(self) -> str:
        """As http://HOST:PORT, or https:// with TLS; RuntimeError while it does not listen."""
        if self._socket is None:
            raise RuntimeError("the /act gateway does not listen; its address is known between start() and stop()")
        host, port = self._socket.getsockname()[:2]
        scheme = "http" if self._config.tls_certificate is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def start(self) -> None:
        """Begins to listen; OSError if the address cannot be bound, or a file of TLS cannot be read."""
        config = self._config
        check_tls("gateways.act", config.tls_certificate, config.tls_key)
        listening = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, config.port))
            listening.listen(128)
        except OSError as error:
            listening.close()
            where = f"{config.host}:{config.port}"
            raise OSError(error.errno, f"gateways.act: cannot listen on {where}: {error.strerror}") from error
        routes = [Route("/act", self._act, methods=["POST"]), Route("/healthz", _healthz)]
        self._socket = listening
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                Starlette(routes=routes),
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                limit_concurrency=_MAX_AT_ONCE,
                ws="none",
                ssl_certfile=config.tls_certificate,
                ssl_keyfile=config.tls_key,
            )
        )
        self._serving = asyncio.get_running_loop().create_task(self._uvicorn.serve([listening]))

    async def stop(self) -> None:
        """Ends all connections. Idempotent."""
        if self._socket is None or self._uvicorn is None or self._serving is None:
            return
        for client in [one for group in self._clients.values() for one in group]:
            self._forget(client)
        self._uvicorn.should_exit = True
        await self._serving
        self._socket.close()
        self._socket = None

    async def _act(self, request: Request) -> Response:
        """Returns the one response of a request."""
        try:
            return await self._answer(request)
        except _RequestRefused as error:
            status, text = error.status, str(error)
        except tuple(_STATUS) as error:
            status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
            text = describe_error(error)
        except Exception:
            logger.exception("a request of the robot at %s failed", request.client)
            status, text = HTTPStatus.INTERNAL_SERVER_ERROR, "internal error of the server; its log has more"
        logger.info("%s: %s", request.client, text)
        return _json(dumps({"error": text}), status)

    async def _answer(self, request: Request) -> Response:
        client_id = self._client_id(request)
        observation, doubled = _read(await self._body(request))
        with self._client(request, client_id) as client:
            answer = await self._infer(client, observation, request)
        try:
            text = dumps(self._content(answer, observation))
        except TypeError as error:
            text = f"model {self._config.model!r}: {error}"
            raise _RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text) from error
        return _json(dumps(text) if doubled else text)

    async def _body(self, request: Request) -> bytearray:
        limit = 2 * self._server.config.observations.max_payload_bytes
        body = bytearray()
        try:
            async with asyncio.timeout(RECEIVE_S):
                async for piece in request.stream():
                    if len(body) + len(piece) > limit:
                        raise _RequestRefused(
                            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                            f"a body of more than {limit} bytes (twice observations.max_payload_bytes)",
                        )
                    body += piece
        except TimeoutError as error:
            text = f"the body has not arrived within {RECEIVE_S:g} s"
            raise _RequestRefused(HTTPStatus.REQUEST_TIMEOUT, text) from error
        except ClientDisconnect as error:
            raise ConnectionError("the robot has left") from error
        return body

    async def _infer(self, client: _Client, observation: dict[str, Any], request: Request) -> GatewayAnswer:
        """Returns the answer; if the robot leaves meanwhile, its place in the queue is free at once."""
        answering = asyncio.ensure_future(client.robot.infer(observation))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                if client.requests == 1:
                    self._forget(client)
                raise ConnectionError("the robot has left")
            return await answering
        finally:
            answering.cancel()
            leaving.cancel()

    def _content(self, answer: GatewayAnswer, observation: dict[str, Any]) -> Any:
        if "actions" not in answer.values:
            found = ", ".join(answer.values) or "nothing"
            text = f"the answer of model {self._config.model!r} has no 'actions', but {found}"
            raise _RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        if "num_steps" in observation:
            return {"dt_ms": self._config.dt_ms, **answer.values}
        return answer.values["actions"]

    def _client_id(self, request: Request) -> str:
        """Returns the robot's id, of its token or as it says itself; "" if it has none.

        Raises:
            _RequestRefused: it has no token, or the id is another robot's.
        """
        holder: str | None = ""
        if self._tokens:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            holder = self._tokens.holder(token.strip()) if scheme.lower() == "bearer" else None
        if holder is None:
            raise _RequestRefused(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Bearer TOKEN")
        try:
            return self._tokens.client_id(holder, request.headers.get(CLIENT_ID_HEADER, ""))
        except ValueError as error:
            raise _RequestRefused(HTTPStatus.FORBIDDEN, f"{CLIENT_ID_HEADER}: {error}") from error

    # Clients of the server

    @contextlib.contextmanager
    def _client(self, request: Request, client_id: str) -> Iterator[_Client]:
        """The client of the server that a request belongs to, for as long as it is answered."""
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
                client.forgetting = asyncio.get_running_loop().call_later(FORGET_S, self._forget, client)

    def _connect(self, name: str, group: str) -> _Client:
        if sum(map(len, self._clients.values())) >= _MAX_CLIENTS:
            raise _RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"{_MAX_CLIENTS} robots are connected")
        try:
            connection = self._server.connect(name, "act")
        except ValueError as error:
            raise ValueError(f"{CLIENT_ID_HEADER}: {error}") from error
        client = _Client(group, GatewayClient(connection, self._config.model, self._config.timeout_ms))
        self._clients.setdefault(group, []).append(client)
        return client

    def _forget(self, client: _Client) -> None:
        client.robot.close()
        group = self._clients.get(client.group, [])
        if client in group:
            group.remove(client)
        if not group:
            self._clients.pop(client.group, None)


class _Client:
    """One client of the server, and how many requests it has."""

    def __init__(self, group: str, robot: GatewayClient) -> None:
        self.group = group
        self.robot = robot
        self.requests = 0
        self.forgetting: asyncio.TimerHandle | None = None


def _read(body: bytearray) -> tuple[dict[str, Any], bool]:
    """Returns the observation, and whether it came as JSON within JSON."""
    try:
        value = loads(body)
        doubled = isinstance(value, dict) and value.keys() == {"encoded"}
        if doubled:
            if not isinstance(value["encoded"], str):
                raise ValueError(f"encoded: expected JSON as text, got {type(value['encoded']).__name__}")
            value = loads(value["encoded"])
    except ValueError as error:
        raise _RequestRefused(HTTPStatus.BAD_REQUEST, f"not a request of this protocol: {error}") from error
    if not isinstance(value, dict):
        raise _RequestRefused(HTTPStatus.BAD_REQUEST, f"expected a map of observations, got {type(value).__name__}")
    return value, doubled


async def _left(request: Request) -> None:
    """Returns when the robot has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(text, int(status), media_type="application/json")


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("OK\n")


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the policy server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
