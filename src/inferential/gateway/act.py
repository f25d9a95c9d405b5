"""`POST /act` with JSON: clients of OpenVLA's server, of MolmoAct's and others that took its form, and plain JSON.

    request   a map of arrays, texts and numbers, as {"image": ..., "instruction": "pick"}; arrays as json-numpy writes
    plain     the same with lists of numbers and no such array: {"state": [1, 2, 3]}; its answer has lists too
    answer    the actions alone; a map {"actions": ..., "dt_ms": ...} where the request has num_steps
    doubled   {"encoded": JSON text of the request} is answered by a JSON string that holds the JSON of the answer
    errors    {"error": text} with a status of HTTP

(OpenVLA, `vla-scripts/deploy.py`; inspect-robots-yam 0.37.0, `policy.py`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from inferential.config.gateways import ActConfig
from inferential.config.services import GatewayConfig
from inferential.gateway.base import GatewayAnswer
from inferential.gateway.described import described
from inferential.gateway.http import HttpGateway
from inferential.gateway.json_numpy import ARRAY_KEY, dumps, loads
from inferential.gateway.plain_json import with_arrays, without_arrays
from inferential.gateway.refusals import RequestRefused
from inferential.policies.tensors import read_specs
from inferential.server import Server

_EXAMPLE = '{"state": [1, 2, 3]}'


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request.

    Attributes:
        observation: by key.
        doubled: whether it came as JSON within JSON.
        plain: whether it has no array as json-numpy writes it: then its lists are arrays, and so are the answer's.
    """

    observation: dict[str, Any]
    doubled: bool
    plain: bool


class ActGateway(HttpGateway):
    """Listens for HTTP.

    Clients of this kind make a new connection for each request, so without the header `X-Client-Id` a machine has as
    many clients of the server as it had requests at once.

    Args:
        server: a running server.
        config: address, model and token.
    """

    Config: ClassVar[type[GatewayConfig]] = ActConfig
    name: ClassVar[str] = "act"

    def __init__(self, server: Server, config: ActConfig) -> None:
        super().__init__(server, config)
        self._dt_ms = config.dt_ms

    def routes(self) -> list[BaseRoute]:
        """Returns /act and /healthz."""
        return [Route("/act", self.answering(self._act), methods=["POST"]), Route("/healthz", _healthz)]

    def refusal(self, status: HTTPStatus, text: str) -> Response:
        """Returns `{"error": text}`."""
        return _json(dumps({"error": text}), status)

    async def _act(self, request: Request) -> Response:
        asked = _read(await self.body(request))
        observation = asked.observation
        if asked.plain:
            said = await described(self._server, self._config.model, self._config.timeout_ms)
            observation = with_arrays(observation, read_specs(said.get("inputs")))
        with self.client(request) as client:
            robot = client.robot(self._config.model, self._config.timeout_ms)
            answer = await self.until_answered(client, robot.infer(observation), request)
        try:
            content = self._content(answer, asked)
            if asked.plain:
                content = without_arrays("" if isinstance(content, dict) else "actions", content)
            text = dumps(content)
        except (TypeError, ValueError) as error:
            text = f"model {self._config.model!r}: {error}"
            raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text) from error
        return _json(dumps(text) if asked.doubled else text)

    def _content(self, answer: GatewayAnswer, asked: _Asked) -> Any:
        values = answer.values
        if "num_steps" in asked.observation and "actions" in values:
            return {"dt_ms": self._dt_ms, **values}
        if "actions" in values:
            return values["actions"]
        if asked.plain:  # by hand, of a model that gives something else
            return values
        found = ", ".join(values) or "nothing"
        text = f"the answer of model {self._config.model!r} has no 'actions', but {found}"
        raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text)


def _read(body: bytearray) -> _Asked:
    text: bytearray | str = body
    try:
        value = loads(body)
        doubled = isinstance(value, dict) and value.keys() == {"encoded"}
        if doubled:
            text = value["encoded"]
            if not isinstance(text, str):
                raise ValueError(f"encoded: expected JSON as text, got {type(text).__name__}")
            value = loads(text)
    except ValueError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"expected JSON, as {_EXAMPLE}: {error}") from error
    if not isinstance(value, dict):
        came = type(value).__name__
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"expected a map of observations, as {_EXAMPLE}, got a {came}")
    return _Asked(value, doubled, plain=not _has(text, f'"{ARRAY_KEY}"'))


def _has(text: str | bytearray, part: str) -> bool:
    return part in text if isinstance(text, str) else part.encode() in text


def _json(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(text, int(status), media_type="application/json")


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("OK\n")
