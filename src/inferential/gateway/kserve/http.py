"""The Open Inference Protocol over HTTP (KServe's v2), as tritonclient and perf_analyzer ask for it.

Models are the server's; requests are scheduled and batched with those of all robots. `priority` (1 the highest, as
Triton has it) and `timeout` (microseconds) are the request's parameters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from inferential.config.gateways import KServeConfig
from inferential.config.services import GatewayConfig
from inferential.errors import InvalidObservation
from inferential.gateway.http import HttpGateway
from inferential.gateway.kserve.inference import UNSERVED, Asked, Inference, check_tensor_parameters, wanted_outputs
from inferential.gateway.kserve.models import ServedModel
from inferential.gateway.refusals import RequestRefused
from inferential.policies.tensors import Array
from inferential.proto.open_inference import HEADER_LENGTH, InferMessage, read_infer, write_infer
from inferential.proto.value_limits import MAX_JSON_BYTES, check_json
from inferential.server import Server

_MAX_DIGITS = 20
_INDEX_BYTES = 1024 * 1024  # of a request for the index, which has a word or two
_PREFIX = "/v2/models/{model:path}"
_UNSERVED = {
    "/v2/systemsharedmemory/{rest:path}": "memory",
    "/v2/cudasharedmemory/{rest:path}": "memory",
    "/v2/repository/models/{rest:path}": "repository",
    "/v2/trace/setting": "settings",
    "/v2/logging": "settings",
}


class KServeGateway(HttpGateway):
    """Serves the models to clients of the protocol.

    Args:
        server: a running server.
        config: address, models and token.
    """

    Config: ClassVar[type[GatewayConfig]] = KServeConfig
    name: ClassVar[str] = "kserve"

    def __init__(self, server: Server, config: KServeConfig) -> None:
        super().__init__(server, config)
        self._inference = Inference(server, config)

    def announcement(self) -> str:
        """Returns its title, address and models."""
        return f"{self._config.title} on {self.address}, {self._inference.models_served}"

    def routes(self) -> list[BaseRoute]:
        """Returns what the protocol has, with and without a version."""
        routes: list[BaseRoute] = [
            Route("/v2", self.answering(self._server_metadata)),
            Route("/v2/health/live", self.answering(self._live)),
            Route("/v2/health/ready", self.answering(self._ready)),
            Route("/v2/models/stats", self.answering(self._statistics)),
            Route("/v2/repository/index", self.answering(self._index), methods=["POST"]),
            *(Route(path, self.answering(self._unserved), methods=["GET", "POST"]) for path in _UNSERVED),
        ]
        for prefix in (f"{_PREFIX}/versions/{{version:str}}", _PREFIX):  # ids of models may have slashes
            routes += [
                Route(f"{prefix}/ready", self.answering(self._model_ready)),
                Route(f"{prefix}/config", self.answering(self._model_config)),
                Route(f"{prefix}/stats", self.answering(self._statistics)),
                Route(f"{prefix}/infer", self.answering(self._infer), methods=["POST"]),
                Route(f"{prefix}/infer", self.answering(self._only_posted), methods=["GET"]),
                Route(f"{prefix}/trace/setting", self.answering(self._unserved), methods=["GET", "POST"]),
                Route(prefix, self.answering(self._metadata)),
            ]
        routes.append(Route("/{path:path}", self.answering(self._unknown), methods=["GET", "POST"]))
        return routes

    def refusal(self, status: HTTPStatus, text: str) -> Response:
        """Returns `{"error": text}`, which tritonclient asks for."""
        return _json({"error": text}, status)

    # What there is

    async def _server_metadata(self, request: Request) -> Response:
        return _json(self._inference.server_metadata())

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        if waiting := self._inference.waiting():
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {', '.join(waiting)}")
        return _json({"ready": True})

    async def _index(self, request: Request) -> Response:
        asked = _parsed(await self.body(request, _INDEX_BYTES))
        return _json(await self._inference.index(only_ready=isinstance(asked, dict) and asked.get("ready") is True))

    async def _metadata(self, request: Request) -> Response:
        return _json((await self._model(request)).metadata())

    async def _model_ready(self, request: Request) -> Response:
        model = await self._model(request)
        if not self._inference.is_ready(model.name):
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"model {model.name!r} is not ready")
        return _json({"name": model.name, "ready": True})

    async def _model_config(self, request: Request) -> Response:
        return _json((await self._model(request)).config())

    async def _statistics(self, request: Request) -> Response:
        name, version = request.path_params.get("model", ""), request.path_params.get("version", "")
        return _json({"model_stats": await self._inference.statistics(name, version)})

    async def _unserved(self, request: Request) -> Response:
        path = request.url.path
        known = (why for known, why in _UNSERVED.items() if path.startswith(known.partition("{")[0]))
        found = next(known, "settings")  # those of one model
        raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, UNSERVED[found])

    async def _only_posted(self, request: Request) -> Response:
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.url.path} is asked by POST")

    async def _unknown(self, request: Request) -> Response:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"nothing is served at {request.url.path}")

    async def _model(self, request: Request) -> ServedModel:
        return await self._inference.model(request.path_params["model"], request.path_params.get("version", ""))

    # Inference

    async def _infer(self, request: Request) -> Response:
        model = await self._model(request)
        with self._inference.counted(model) as timings:
            length = _header_length(request)
            body = await self.body(request, MAX_JSON_BYTES if length is None else math.inf)
            size = len(body) if length is None else length  # of the JSON
            message = await self.aside.call(size, read_infer, body, length, "inputs")
            asked, binary = _asked(message)
            default = _flag(asked.parameters, "binary_data_output")
            with self.client(request) as client:
                answers = await self.until_answered(client, self._inference.infer(client, model, asked), request)
            timings += [one.timing for one in answers]
            outputs = self._inference.outputs(model, asked, answers)
            forms = {name: binary.get(name, default) for name in outputs}
            return await self._response(model, message.fields, outputs, forms)

    async def _response(
        self, model: ServedModel, fields: Mapping[str, Any], outputs: Mapping[str, Array], binary: Mapping[str, bool]
    ) -> Response:
        head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
        if "id" in fields:
            head["id"] = fields["id"]
        size = sum(array.nbytes for name, array in outputs.items() if not binary[name])
        try:
            body, length = await self.aside.call(size, write_infer, head, "outputs", outputs, binary)
        except ValueError as error:
            raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, f"output {error}") from error
        if length is None:
            return Response(body, media_type="application/json")
        return Response(body, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream")


def _parsed(body: bytearray) -> Any:
    """Returns what a body of JSON holds, {} for an empty one."""
    try:
        check_json(body)
        return json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"expected JSON: {error}") from None


def _asked(message: InferMessage) -> tuple[Asked, dict[str, bool]]:
    """Returns a request, and whether each output that it names travels as bytes, where it says so."""
    parameters, outputs = message.fields.get("parameters") or {}, message.fields.get("outputs")
    if type(message.fields.get("id", "")) is not str:
        raise InvalidObservation(f"id: expected a string, got {type(message.fields['id']).__name__}")
    if not isinstance(parameters, Mapping):
        raise InvalidObservation(f"parameters: expected a map, got {type(parameters).__name__}")
    if outputs is not None and not isinstance(outputs, list):
        raise InvalidObservation("outputs: expected a list of maps with a name")
    binary: dict[str, bool] = {}
    for one in outputs or []:
        own = (one.get("parameters") or {}) if isinstance(one, Mapping) else None
        if own is None or not isinstance(own, Mapping) or not isinstance(one.get("name"), str):
            raise InvalidObservation("outputs: expected a list of maps with a name")
        check_tensor_parameters(one["name"], own)
        if "binary_data" in own:
            binary[one["name"]] = _flag(own, "binary_data")
    return Asked(message.tensors, parameters, wanted_outputs(one["name"] for one in outputs or [])), binary


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    """Returns a parameter that is true or false; false where it is not there."""
    value = parameters.get(name, False)
    if type(value) is not bool:
        raise InvalidObservation(f"parameters: {name}: expected true or false, got {value!r:.40}")
    return value


def _header_length(request: Request) -> int | None:
    value = request.headers.get(HEADER_LENGTH)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > _MAX_DIGITS:
        raise InvalidObservation(f"{HEADER_LENGTH}: expected a whole number, got {value[:_MAX_DIGITS]!r}")
    return int(value)


def _json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(json.dumps(value), int(status), media_type="application/json")
