"""`POST /act` with JSON: clients of OpenVLA's server, and of MolmoAct's and others that took its form.

    request   a map of arrays, texts and numbers, as {"image": ..., "instruction": "pick"}; arrays as json-numpy writes
    answer    the actions alone; a map {"actions": ..., "dt_ms": ...} where the request has num_steps
    doubled   {"encoded": JSON text of the request} is answered by a JSON string that holds the JSON of the answer
    errors    {"error": text} with a status of HTTP

(OpenVLA, `vla-scripts/deploy.py`; inspect-robots-yam 0.37.0, `policy.py`.)
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from inferential.config.gateways import ActConfig
from inferential.config.services import GatewayConfig
from inferential.gateway.base import GatewayAnswer
from inferential.gateway.http import HttpGateway
from inferential.gateway.json_numpy import dumps, loads
from inferential.gateway.refusals import RequestRefused
from inferential.server import Server


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
        observation, doubled = _read(await self.body(request))
        with self.client(request) as client:
            robot = client.robot(self._config.model, self._config.timeout_ms)
            answer = await self.until_answered(client, robot.infer(observation), request)
        try:
            text = dumps(self._content(answer, observation))
        except TypeError as error:
            text = f"model {self._config.model!r}: {error}"
            raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text) from error
        return _json(dumps(text) if doubled else text)

    def _content(self, answer: GatewayAnswer, observation: dict[str, Any]) -> Any:
        if "actions" not in answer.values:
            found = ", ".join(answer.values) or "nothing"
            text = f"the answer of model {self._config.model!r} has no 'actions', but {found}"
            raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        if "num_steps" in observation:
            return {"dt_ms": self._dt_ms, **answer.values}
        return answer.values["actions"]


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
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"not a request of this protocol: {error}") from error
    if not isinstance(value, dict):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"expected a map of observations, got {type(value).__name__}")
    return value, doubled


def _json(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(text, int(status), media_type="application/json")


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("OK\n")
