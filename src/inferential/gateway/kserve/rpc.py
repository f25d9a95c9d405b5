"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, as `tritonclient.grpc` asks for it.

As over HTTP; outputs travel as raw bytes, the only form that Triton's client reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

try:
    import grpc
    import grpc.aio
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "gateways.kserve_grpc needs grpcio: pip install 'inferential[kserve]'", name="grpc"
    ) from _error
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from inferential.config.gateways import KServeGrpcConfig
from inferential.config.services import GatewayConfig
from inferential.gateway.base import Gateway
from inferential.gateway.clients import CLIENT_ID_HEADER, Clients
from inferential.gateway.grpc_listening import MOST_CALLS, end_call, listen, listening_options
from inferential.gateway.grpc_room import check_room
from inferential.gateway.kserve.inference import UNSERVED, Inference
from inferential.gateway.kserve.messages import SERVICE, message_class
from inferential.gateway.kserve.rpc_health import HEALTH, NOT_SERVING, SERVING, HealthRequest
from inferential.gateway.kserve.rpc_limits import Room
from inferential.gateway.kserve.rpc_tensors import asked_of, response_of
from inferential.gateway.refusals import RequestRefused, is_of_message, refusal_of
from inferential.notices import Notices
from inferential.proto.value_limits import check_protobuf
from inferential.server import Server

logger: logging.Logger = logging.getLogger("inferential.gateway.kserve")

AT_ONCE = 32
"""Requests of one stream that are answered at the same time."""
_Code = grpc.StatusCode
_CODES: dict[HTTPStatus, grpc.StatusCode] = {
    HTTPStatus.BAD_REQUEST: _Code.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: _Code.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: _Code.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: _Code.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _Code.RESOURCE_EXHAUSTED,
    HTTPStatus.TOO_MANY_REQUESTS: _Code.RESOURCE_EXHAUSTED,
    HTTPStatus.NOT_IMPLEMENTED: _Code.UNIMPLEMENTED,
    HTTPStatus.INTERNAL_SERVER_ERROR: _Code.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: _Code.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: _Code.DEADLINE_EXCEEDED,
}
_UNSERVED = {
    "memory": [
        f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")
    ],
    "repository": ["RepositoryModelLoad", "RepositoryModelUnload"],
    "settings": ["TraceSetting", "LogSettings"],
}


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who a call is from; gRPC's own context must not be asked once the call has ended, which crashes the process."""

    client_id: str
    peer: str

    @property
    def host(self) -> str:
        """Its machine, of a peer like `ipv4:127.0.0.1:40000`."""
        return self.peer.rpartition(":")[0]


_Handler = Callable[[Any, _Caller], Awaitable[Any]]


class KServeGrpcGateway(Gateway):
    """Serves the models to clients of the protocol over gRPC.

    A client is a client of the server by the metadata `x-client-id`; without it by its machine.

    Args:
        server: a running server.
        config: address, models and token.
    """

    Config: ClassVar[type[GatewayConfig]] = KServeGrpcConfig
    name: ClassVar[str] = "kserve_grpc"

    def __init__(self, server: Server, config: KServeGrpcConfig) -> None:
        super().__init__(server, config)
        self._settings = config
        self._inference = Inference(server, config)
        self._clients = Clients(server, self.name, config)
        self._grpc: grpc.aio.Server | None = None
        self._address = ""
        self._room = Room(config.max_request_bytes)
        self._notices = Notices(logger)

    @property
    def address(self) -> str:
        """As HOST:PORT, which tritonclient takes; RuntimeError while it does not listen."""
        if self._grpc is None:
            raise RuntimeError(f"the {self._config.title} does not listen; its address is known between start and stop")
        return self._address

    def announcement(self) -> str:
        """Returns its title, address and models."""
        return f"{self._config.title} on {self.address}, {self._inference.models_served}"

    async def start(self) -> None:
        """Begins to listen; OSError if the address cannot be bound, or a file of TLS cannot be read."""
        check_room(f"gateways.{self.name}")
        listening = grpc.aio.server(
            options=(
                *listening_options(),
                ("grpc.max_receive_message_length", self._settings.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.bdp_probe", 0),  # else megabytes are read of a call whose turn has not come
            ),
            maximum_concurrent_rpcs=MOST_CALLS,  # of each that waits for its turn gRPC has 64 KiB
        )
        check = grpc.stream_unary_rpc_method_handler(
            self._ending(self._health, HealthRequest, _anyone),
            response_serializer=type(SERVING).SerializeToString,
        )
        listening.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, self._handlers()),
                grpc.method_handlers_generic_handler(HEALTH, {"Check": check}),
            )
        )
        self._address = listen(listening, f"gateways.{self.name}", self._settings)
        await listening.start()
        self._grpc = listening

    async def stop(self) -> None:
        """Ends all connections. Idempotent."""
        listening, self._grpc = self._grpc, None
        if listening is not None:
            await listening.stop(None)
            self._clients.close()

    def _handlers(self) -> dict[str, Any]:
        calls: dict[str, _Handler] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "ModelInfer": self._infer,
        }
        # A request is a stream of one message: handlers of streams read it themselves, when there is room for it.
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(
                self._ending(call, message_class(f"{name}Request")),
                response_serializer=message_class(f"{name}Response").SerializeToString,
            )
            for name, call in calls.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, response_serializer=message_class("ModelStreamInferResponse").SerializeToString
        )
        for why, names in _UNSERVED.items():
            for name in names:
                handlers[name] = grpc.stream_unary_rpc_method_handler(self._ending(_refusing(UNSERVED[why])))
        return handlers

    def _ending(
        self, handler: _Handler, kind: Any = None, who: Callable[[Any], _Caller] | None = None
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """Returns a handler of gRPC that ends each call with an answer, or with a code and a text.

        Args:
            handler: gets the request.
            kind: the class of that; None: its bytes do not matter.
            who: returns who calls; None: who has no token is refused.
        """
        who = who or self._caller

        async def handle(requests: object, context: Any) -> Any:
            peer = context.peer()
            try:
                caller = who(context)
                async with self._room.request(context.read) as data:
                    return await handler(data if kind is None else _read(kind, data), caller)
            except Exception as error:
                status, text = self._refusal_of(error, peer)
            self._note(peer, text)
            return await end_call(context, _CODES.get(status, _Code.UNKNOWN), text)

        return handle

    def _caller(self, context: Any) -> _Caller:
        """Returns who a call is from; RequestRefused where it has no token, or the id is another client's."""
        shown = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        client_id = self._clients.id_of(shown.get("authorization", ""), shown.get(CLIENT_ID_HEADER.lower(), ""))
        return _Caller(client_id, context.peer())

    def _refusal_of(self, error: Exception, peer: str) -> tuple[HTTPStatus, str]:
        if is_of_message(error):
            self.count_ended_here("kserve_grpc")
        return refusal_of(error, peer)

    def _note(self, peer: str, text: str) -> None:
        self._notices.say((peer.rpartition(":")[0], text[:80]), "%s: %s", peer, text)

    # What there is

    async def _live(self, request: Any, caller: _Caller) -> Any:
        return message_class("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, caller: _Caller) -> Any:
        return message_class("ServerReadyResponse")(ready=not self._inference.waiting())

    async def _health(self, request: Any, caller: _Caller) -> Any:
        if request.value not in ("", SERVICE):
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"no service {request.value!r}; there is: {SERVICE}")
        return NOT_SERVING if self._inference.waiting() else SERVING

    async def _server_metadata(self, request: Any, caller: _Caller) -> Any:
        return message_class("ServerMetadataResponse")(**self._inference.server_metadata())

    async def _model_ready(self, request: Any, caller: _Caller) -> Any:
        try:
            await self._inference.model(request.name, request.version)
        except RequestRefused:  # what is not there is not ready, as Triton has it
            return message_class("ModelReadyResponse")(ready=False)
        return message_class("ModelReadyResponse")(ready=self._inference.is_ready(request.name))

    async def _metadata(self, request: Any, caller: _Caller) -> Any:
        model = await self._inference.model(request.name, request.version)
        return _message("ModelMetadataResponse", model.metadata())

    async def _model_config(self, request: Any, caller: _Caller) -> Any:
        model = await self._inference.model(request.name, request.version)
        return _message("ModelConfigResponse", {"config": model.config()})

    async def _statistics(self, request: Any, caller: _Caller) -> Any:
        found = await self._inference.statistics(request.name, request.version)
        return _message("ModelStatisticsResponse", {"model_stats": found})

    async def _index(self, request: Any, caller: _Caller) -> Any:
        return _message("RepositoryIndexResponse", {"models": await self._inference.index(only_ready=request.ready)})

    # Inference

    async def _infer(self, request: Any, caller: _Caller) -> Any:
        model = await self._inference.model(request.model_name, request.model_version)
        with self._inference.counted(model) as timings:
            asked = asked_of(request)
            with self._clients.client(caller.client_id, caller.host) as client:
                answers = await self._inference.infer(client, model, asked)
            timings += [one.timing for one in answers]
            try:
                return response_of(request.id, model, self._inference.outputs(model, asked, answers))
            except ValueError as error:  # what the model gave has no datatype
                raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """Answers the requests of a stream in their order, several at once; an error ends its request alone."""
        peer = context.peer()
        try:
            caller = self._caller(context)
            with self._room.stream():
                async for answer in self._answers(requests, caller):
                    yield answer
            return
        except RequestRefused as error:
            status, text = error.status, str(error)
        self._note(peer, text)
        await end_call(context, _CODES.get(status, _Code.UNKNOWN), text)

    async def _answers(self, requests: AsyncIterator[bytes], caller: _Caller) -> AsyncIterator[Any]:
        answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(AT_ONCE)
        running: set[asyncio.Task[Any]] = set()  # one more than there are in the queue, where that is full

        async def read() -> None:
            async for data in requests:
                task = asyncio.create_task(self._answer(data, caller))
                running.add(task)
                task.add_done_callback(running.discard)
                await answers.put(task)
                await self._room.found()
            await answers.put(None)

        reading = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
        finally:
            for task in (reading, *running):
                task.cancel()

    async def _answer(self, data: bytes, caller: _Caller) -> Any:
        response, request = message_class("ModelStreamInferResponse"), message_class("ModelInferRequest")()
        try:
            with self._room.kept(data):
                request = _read(message_class("ModelInferRequest"), data)
                found = await self._infer(request, caller)
            found.parameters["triton_final_response"].bool_param = True
            return response(infer_response=found)
        except Exception as error:
            _, text = self._refusal_of(error, caller.peer)
            self._note(caller.peer, text)
            return response(
                error_message=text[:2000], infer_response=message_class("ModelInferResponse")(id=request.id)
            )


def _read(kind: Any, data: bytes) -> Any:
    check_protobuf(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"the request cannot be read: {error}") from error


def _anyone(context: Any) -> _Caller:
    """Returns a caller who needs no token, as probes have none."""
    return _Caller("", context.peer())


def _refusing(text: str) -> _Handler:
    async def refuse(request: Any, caller: _Caller) -> Any:
        raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, text)

    return refuse


def _message(name: str, content: Mapping[str, Any]) -> Any:
    return ParseDict(dict(content), message_class(name)(), ignore_unknown_fields=True)
