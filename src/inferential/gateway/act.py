"""`POST /act` with JSON: clients of OpenVLA's server, of MolmoAct's and others that took its form, and plain JSON.

    request   a map of arrays, texts and numbers, as {"image": ..., "instruction": "pick"}; arrays as json-numpy writes
    plain     the same with lists of numbers and no such array: {"state": [1, 2, 3]}; its answer has lists too
    answer    the actions alone; a map {"actions": ..., "dt_ms": ...} where the request has num_steps
    doubled   {"encoded": JSON text of the request} is answered by a JSON string that holds the JSON of the answer
    errors    {"error": text} with a status of HTTP

(OpenVLA, `vla-scripts/deploy.py`; inspect-robots-yam 0.37.0, `policy.py`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from inferential.config.gateways import ActConfig
from inferential.config.services import GatewayConfig
from inferential.gateway.act_messages import Asked, is_plain, read, write
from inferential.gateway.aside import size_of
from inferential.gateway.base import GatewayAnswer
from inferential.gateway.described import described
from inferential.gateway.http import HttpGateway
from inferential.gateway.json_numpy import dumps
from inferential.gateway.refusals import RequestRefused
from inferential.policies.tensors import read_specs
from inferential.proto.value_limits import MAX_JSON_BYTES, SMALL_BYTES
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
        body = await self.body(request, MAX_JSON_BYTES)
        said: Mapping[str, Any] = {}
        if len(body) > SMALL_BYTES or is_plain(body):  # of a large one that is not looked for here
            said = await described(self._server, self._config.model, self._config.timeout_ms)
        asked = await self.aside.call(len(body), read, body, read_specs(said.get("inputs")))
        with self.client(request) as client:
            robot = client.robot(self._config.model, self._config.timeout_ms)
            answer = await self.until_answered(client, robot.infer(asked.observation), request)
        try:
            content = self._content(answer, asked)
            text = await self.aside.call(size_of(content), write, content, asked.form)
        except (TypeError, ValueError) as error:
            text = f"model {self._config.model!r}: {error}"
            raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text) from error
        return _json(text)

    def _content(self, answer: GatewayAnswer, asked: Asked) -> Any:
        values = answer.values
        if "num_steps" in asked.observation and "actions" in values:
            return {"dt_ms": self._dt_ms, **values}
        if "actions" in values:
            return values["actions"]
        if asked.form.plain:  # by hand, of a model that gives something else
            return values
        found = ", ".join(values) or "nothing"
        text = f"the answer of model {self._config.model!r} has no 'actions', but {found}"
        raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text)


def _json(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(text, int(status), media_type="application/json")


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("OK\n")
