"""What the Open Inference Protocol asks for, whatever it travels by: models, their states and statistics, inference."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from inferential.config.gateways import ANY_MODEL, KServeConfig
from inferential.errors import InvalidObservation
from inferential.gateway.base import GatewayAnswer, GatewayClient
from inferential.gateway.clients import ServedClient
from inferential.gateway.described import described
from inferential.gateway.kserve.models import ServedModel
from inferential.gateway.kserve.statistics import Statistics
from inferential.gateway.refusals import RequestRefused
from inferential.policies.tensors import Array
from inferential.proto.messages import ResponseTiming
from inferential.proto.open_inference import NO_SHARED_MEMORY
from inferential.server import Server
from inferential.wall_clock import wall_ns

_EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
_UINT64_MAX = 2**64 - 1
UNSERVED = {
    "memory": NO_SHARED_MEMORY,
    "repository": "models are not loaded or unloaded by clients: change the server's configuration",
    "settings": "traces and logs are not set by clients: see the server's configuration",
}
"""What the protocol's extensions have and this server does not."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for inference.

    Attributes:
        tensors: inputs by name; texts as arrays of str objects.
        parameters: of the request.
        outputs: names of those that are asked for; None: all.
    """

    tensors: Mapping[str, Array]
    parameters: Mapping[str, Any]
    outputs: Sequence[str] | None


class Inference:
    """Answers the protocol's requests.

    Args:
        server: a running server.
        config: its models, and how long an answer may take.
    """

    def __init__(self, server: Server, config: KServeConfig) -> None:
        self._server = server
        self._only = None if config.model == ANY_MODEL else config.model
        self._timeout_ms = config.timeout_ms
        self._statistics: dict[str, Statistics] = {}

    @property
    def models_served(self) -> str:
        """Which models, for people."""
        return "every model" if self._only is None else f"model {self._only}"

    def server_metadata(self) -> dict[str, Any]:
        """Returns name, version and extensions."""
        return {"name": "inferential", "version": version("inferential"), "extensions": _EXTENSIONS}

    def waiting(self) -> list[str]:
        """Returns the models that are not ready."""
        served = self._model_ids()
        wanted = served if self._only is None else [self._only]
        return [one for one in wanted if one not in served or not self._server.is_ready(one)]

    def is_ready(self, name: str) -> bool:
        """Returns whether a model is ready; RequestRefused where there is none of that name."""
        self._check(name)
        return self._server.is_ready(name)

    async def index(self, *, only_ready: bool = False) -> list[dict[str, Any]]:
        """Returns each model's name, version and state, and why it is not ready.

        Args:
            only_ready: whether those that are not ready are left out.
        """
        states = self._server.model_states()
        found = []
        model_ids = [one for one in self._model_ids() if not only_ready or self._server.is_ready(one)]
        for model in await self._all_described(model_ids):
            state, why = {"state": "READY"}, states[model.name]["why"] or states[model.name]["state"]
            if not self._server.is_ready(model.name):
                state = {"state": "UNAVAILABLE", "reason": why}
            found.append({"name": model.name, "version": model.version, **state})
        return found

    async def statistics(self, name: str = "", asked_version: str = "") -> list[dict[str, Any]]:
        """Returns the statistics of a model, of all without a name.

        Raises:
            RequestRefused: there is no such model or version.
        """
        if name:
            models = [await self.model(name, asked_version)]
        else:
            models = await self._all_described(self._model_ids())
        return [self._statistics_of(one).as_dict(one) for one in models]

    async def model(self, name: str, asked_version: str = "") -> ServedModel:
        """Returns a model as it is now.

        Raises:
            RequestRefused: there is no such model or version.
        """
        self._check(name)
        model = await self._described(name)
        if asked_version and asked_version != model.version:
            text = f"model {model.name!r} has the version {model.version!r}, asked for was {asked_version!r}"
            raise RequestRefused(HTTPStatus.NOT_FOUND, text)
        return model

    @contextlib.contextmanager
    def counted(self, model: ServedModel) -> Iterator[list[ResponseTiming]]:
        """Counts a request from its first to its last moment; the caller adds the timings of its rows."""
        statistics = self._statistics_of(model)
        began = time.perf_counter_ns()
        timings: list[ResponseTiming] = []
        try:
            yield timings
        except BaseException:
            statistics.note_failure(time.perf_counter_ns() - began)
            raise
        now_ms = wall_ns() // 10**6
        statistics.note(timings, time.perf_counter_ns() - began, now_ms)

    async def infer(self, client: ServedClient, model: ServedModel, asked: Asked) -> list[GatewayAnswer]:
        """Returns the answers to the rows of a request.

        Args:
            client: whose request it is.
            model: of `model`.
            asked: what it asks.

        Raises:
            InferenceError, TimeoutError, ConnectionError: as `GatewayClient.infer`.
            InvalidObservation: naming what does not fit.
        """
        priority, timeout_ms = _settings(asked.parameters)
        model.check_outputs(asked.outputs)
        rows = model.rows(asked.tensors)
        arguments: dict[str, Any] = {}
        if priority is not None:
            arguments["priority"] = priority
        if timeout_ms is not None:
            arguments["latency_budget_ms"] = timeout_ms
        wait_ms = min(self._timeout_ms, timeout_ms or self._timeout_ms)
        robot = client.robot(model.name, wait_ms, **arguments)
        try:
            return await self._answers(robot, rows)
        except TimeoutError as error:
            if timeout_ms != wait_ms:
                raise
            text = f"model {model.name!r} gave no answer within {timeout_ms:g} ms, the request's timeout"
            raise TimeoutError(text) from error

    @staticmethod
    async def _answers(robot: GatewayClient, rows: Sequence[Mapping[str, Any]]) -> list[GatewayAnswer]:
        if len(rows) == 1:
            return [await robot.infer(rows[0])]
        outcomes = await asyncio.gather(*map(robot.infer, rows), return_exceptions=True)
        failed = next((one for one in outcomes if isinstance(one, BaseException)), None)
        if failed is not None:
            raise failed
        return [one for one in outcomes if isinstance(one, GatewayAnswer)]

    def outputs(self, model: ServedModel, asked: Asked, answers: Sequence[GatewayAnswer]) -> dict[str, Array]:
        """Returns the outputs that were asked for, rows stacked.

        Raises:
            RequestRefused: the model gives no such output, or rows that do not fit together.
        """
        try:
            return model.outputs_of([answer.arrays for answer in answers], asked.outputs)
        except InvalidObservation:
            raise
        except ValueError as error:
            raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error

    def _statistics_of(self, model: ServedModel) -> Statistics:
        return self._statistics.setdefault(model.name, Statistics())

    def _model_ids(self) -> list[str]:
        return [one for one in self._server.model_ids if self._only in (None, one)]

    def _check(self, name: str) -> None:
        if name not in self._model_ids():
            known = ", ".join(self._model_ids()) or "none"
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"no model {name!r}; there is: {known}")

    async def _described(self, name: str) -> ServedModel:
        """Returns a model by what it says of itself; RequestRefused where it does not, as while its server is away."""
        said = await described(self._server, name, self._timeout_ms)
        return ServedModel.of(name, said)

    async def _all_described(self, names: Sequence[str]) -> list[ServedModel]:
        """Returns models of which one that says nothing keeps no other one back."""

        async def as_described(name: str) -> ServedModel:
            try:
                return await self._described(name)
            except RequestRefused:
                return ServedModel.of(name, {})

        return list(await asyncio.gather(*map(as_described, names)))


def _settings(parameters: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Returns the priority, 0 the best, and the timeout in milliseconds; None where a request does not say."""
    priority, timeout = parameters.get("priority", 0), parameters.get("timeout", 0)
    for name, value in (("priority", priority), ("timeout", timeout)):
        if type(value) is not int or not 0 <= value <= _UINT64_MAX:
            expected = "expected a whole number from 0 to 2**64 - 1"
            raise InvalidObservation(f"parameters: {name}: {expected}, got {value!r:.40}")
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if parameters.get(name):
            raise InvalidObservation(f"parameters: {name}: sequences are not served, their state would be lost")
    return (priority - 1 if priority else None), (timeout / 1e3 if timeout else None)


def wanted_outputs(names: Iterable[str]) -> list[str] | None:
    """Returns the outputs that a request asks for; None, which are all, where it names none.

    Raises:
        InvalidObservation: it names one twice.
    """
    wanted: dict[str, None] = {}
    for name in names:
        if name in wanted:
            raise InvalidObservation(f"outputs: there are two named {name!r}")
        wanted[name] = None
    return list(wanted) or None


def check_tensor_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Checks the parameters of an input or an output that is asked for.

    Args:
        name: of the tensor.
        parameters: of it.

    Raises:
        InvalidObservation: they ask for what is not served.
    """
    if "shared_memory_region" in parameters:
        raise InvalidObservation(f"{name!r}: {NO_SHARED_MEMORY}")
    if parameters.get("classification"):
        raise InvalidObservation(f"{name!r}: classification is not served: read the output itself")
