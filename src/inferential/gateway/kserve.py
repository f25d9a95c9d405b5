"""The Open Inference Protocol over HTTP (KServe's v2), as tritonclient and perf_analyzer ask for it.

Models are the server's; requests are scheduled and batched with those of all robots. `priority` (1 the highest, as
Triton has it) and `timeout` (microseconds) are the request's parameters.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from inferential.config.gateways import ANY_MODEL, KServeConfig
from inferential.config.services import GatewayConfig
from inferential.errors import InvalidObservation
from inferential.gateway.base import GatewayAnswer
from inferential.gateway.http import HttpClient, HttpGateway, RequestRefused
from inferential.gateway.kserve_models import ServedModel, Statistics
from inferential.proto.open_inference import HEADER_LENGTH, InferMessage, read_infer, write_infer
from inferential.server import Server

_EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
_PREFIX = "/v2/models/{model:str}"


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
        self._only = None if config.model == ANY_MODEL else config.model
        self._timeout_ms = config.timeout_ms
        self._statistics: dict[str, Statistics] = {}

    def announcement(self) -> str:
        """Returns its title, address and models."""
        models = "every model" if self._only is None else f"model {self._only}"
        return f"{self._config.title} on {self.address}, {models}"

    def routes(self) -> list[BaseRoute]:
        """Returns what the protocol has, with and without a version."""
        routes: list[BaseRoute] = [
            Route("/v2", self.answering(self._server_metadata)),
            Route("/v2/health/live", self.answering(self._live)),
            Route("/v2/health/ready", self.answering(self._ready)),
            Route("/v2/models/stats", self.answering(self._all_statistics)),
            Route("/v2/repository/index", self.answering(self._index), methods=["POST"]),
        ]
        for prefix in (_PREFIX, f"{_PREFIX}/versions/{{version:str}}"):
            routes += [
                Route(prefix, self.answering(self._metadata)),
                Route(f"{prefix}/ready", self.answering(self._model_ready)),
                Route(f"{prefix}/config", self.answering(self._model_config)),
                Route(f"{prefix}/stats", self.answering(self._model_statistics)),
                Route(f"{prefix}/infer", self.answering(self._infer), methods=["POST"]),
            ]
        routes.append(Route("/{path:path}", self.answering(self._unknown), methods=["GET", "POST"]))
        return routes

    def refusal(self, status: HTTPStatus, text: str) -> Response:
        """Returns `{"error": text}`, which tritonclient asks for."""
        return _json({"error": text}, status)

    # What there is

    async def _server_metadata(self, request: Request) -> Response:
        return _json({"name": "inferential", "version": version("inferential"), "extensions": _EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        waiting = [one for one in self._model_ids() if not self._server.is_ready(one)]
        if waiting:
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {', '.join(waiting)}")
        return _json({"ready": True})

    async def _index(self, request: Request) -> Response:
        states = self._server.model_states()
        found = []
        for model_id in self._model_ids():
            is_ready, why = self._server.is_ready(model_id), states[model_id]["why"]
            one = {"name": model_id, "version": "1", "state": "READY" if is_ready else "UNAVAILABLE"}
            found.append(one if is_ready else {**one, "reason": why or states[model_id]["state"]})
        return _json(found)

    async def _metadata(self, request: Request) -> Response:
        return _json((await self._model(request)).metadata())

    async def _model_ready(self, request: Request) -> Response:
        model_id = self._model_id(request)
        if not self._server.is_ready(model_id):
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"model {model_id!r} is not ready")
        return _json({"name": model_id, "ready": True})

    async def _model_config(self, request: Request) -> Response:
        return _json((await self._model(request)).config())

    async def _model_statistics(self, request: Request) -> Response:
        return _json({"model_stats": [self._statistics_of(await self._model(request))]})

    async def _all_statistics(self, request: Request) -> Response:
        models = [await self._described(model_id) for model_id in self._model_ids()]
        return _json({"model_stats": [self._statistics_of(model) for model in models]})

    async def _unknown(self, request: Request) -> Response:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"nothing is served at {request.url.path}")

    def _statistics_of(self, model: ServedModel) -> dict[str, Any]:
        return self._statistics.setdefault(model.name, Statistics()).as_dict(model)

    def _model_ids(self) -> list[str]:
        return [self._only] if self._only is not None else list(self._server.model_states())

    def _model_id(self, request: Request) -> str:
        model_id: str = request.path_params["model"]
        if model_id not in self._model_ids():
            known = ", ".join(self._model_ids()) or "none"
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"no model {model_id!r}; there is: {known}")
        return model_id

    async def _model(self, request: Request) -> ServedModel:
        model = await self._described(self._model_id(request))
        asked = request.path_params.get("version", model.version)
        if asked != model.version:
            text = f"model {model.name!r} has the version {model.version!r}, asked for was {asked!r}"
            raise RequestRefused(HTTPStatus.NOT_FOUND, text)
        return model

    async def _described(self, model_id: str) -> ServedModel:
        return ServedModel.of(model_id, await self._server.model_metadata(model_id))

    # Inference

    async def _infer(self, request: Request) -> Response:
        model = await self._model(request)
        statistics = self._statistics.setdefault(model.name, Statistics())
        began = time.perf_counter_ns()
        try:
            asked = read_infer(await self.body(request), _header_length(request), "inputs")
            rows = model.rows(asked.tensors)
            with self.client(request) as client:
                answers = await self.until_answered(client, self._ask(client, model, rows, asked), request)
            response = _response(model, asked, answers)
        except BaseException:
            statistics.note_failure(time.perf_counter_ns() - began)
            raise
        now_ms = int(time.time() * 1e3)  # for people; nothing is decided by it
        statistics.note([one.timing for one in answers], time.perf_counter_ns() - began, now_ms)
        return response

    async def _ask(
        self, client: HttpClient, model: ServedModel, rows: list[dict[str, Any]], asked: InferMessage
    ) -> list[GatewayAnswer]:
        priority, timeout_ms = _parameters(asked.fields)
        arguments: dict[str, Any] = {}
        if priority is not None:
            arguments["priority"] = priority
        if timeout_ms is not None:
            arguments["latency_budget_ms"] = timeout_ms
        wait_ms = min(self._timeout_ms, timeout_ms or self._timeout_ms)
        robot = client.robot(model.name, wait_ms, **arguments)
        if len(rows) == 1:
            return [await robot.infer(rows[0])]
        outcomes = await asyncio.gather(*map(robot.infer, rows), return_exceptions=True)
        failed = next((one for one in outcomes if isinstance(one, BaseException)), None)
        if failed is not None:
            raise failed
        return [one for one in outcomes if isinstance(one, GatewayAnswer)]


def _parameters(fields: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Returns the priority, 0 the best, and the timeout in milliseconds; None where a request does not say."""
    parameters = fields.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise InvalidObservation(f"parameters: expected a map, got {type(parameters).__name__}")
    priority, timeout = parameters.get("priority", 0), parameters.get("timeout", 0)
    for name, value in (("priority", priority), ("timeout", timeout)):
        if type(value) is not int or value < 0:
            raise InvalidObservation(f"parameters: {name}: expected a whole number from 0, got {value!r}")
    return (priority - 1 if priority else None), (timeout / 1e3 if timeout else None)


def _response(model: ServedModel, asked: InferMessage, answers: list[GatewayAnswer]) -> Response:
    fields = asked.fields
    outputs = fields.get("outputs")
    if outputs is not None and not (
        isinstance(outputs, list)
        and all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in outputs)
    ):
        raise InvalidObservation("outputs: expected a list of maps with a name")
    wanted = [one["name"] for one in outputs] if outputs else None
    parameters = fields.get("parameters") or {}
    default = bool(parameters.get("binary_data_output", False))
    try:
        tensors = model.outputs_of([answer.values for answer in answers], wanted)
    except ValueError as error:
        is_asked = wanted is not None and "unexpected output" in str(error)
        status = HTTPStatus.BAD_REQUEST if is_asked else HTTPStatus.INTERNAL_SERVER_ERROR
        raise RequestRefused(status, str(error)) from error
    binary = dict.fromkeys(tensors, default)
    for one in outputs or []:
        own = one.get("parameters") or {}
        if isinstance(own, Mapping) and "binary_data" in own:
            binary[one["name"]] = bool(own["binary_data"])
    head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if "id" in fields:
        head["id"] = fields["id"]
    body, length = write_infer(head, "outputs", tensors, binary)
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream")


def _header_length(request: Request) -> int | None:
    value = request.headers.get(HEADER_LENGTH)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit():
        raise InvalidObservation(f"{HEADER_LENGTH}: expected a whole number, got {value!r}")
    return int(value)


def _json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(json.dumps(value), int(status), media_type="application/json")
