"""GR00T's policy protocol: ZeroMQ REQ to our ROUTER, msgpack, arrays in either of its two forms.

    request   {"endpoint": name, "data": ..., "api_token": ...}; without an endpoint it is get_action
    newer     data = {"observation": map, "options": map or nil}, answered by [action, info]
    older     data = observation, answered by the action, a map
    reset     ends the robot's episode
    errors    {"error": text}

An answer has its arrays in the form of the request. A request to kill the server is refused: other robots use it.
(NVIDIA Isaac GR00T N1.5 to N1.7, `PolicyServer`.)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import OrderedDict
from typing import Any, ClassVar

from inferential.config.gateways import Gr00tConfig
from inferential.config.services import GatewayConfig
from inferential.config.tokens import KnownTokens
from inferential.errors import InferenceError, system_reason
from inferential.gateway.base import Gateway, GatewayClient, describe_error
from inferential.gateway.gr00t_messages import ArrayForm, pack, token_of, unpack, with_modality_markers
from inferential.gateway.req_router import ReqPeer, ReqRouter
from inferential.notices import Notices
from inferential.server import Server
from inferential.transport.listening import listen

logger: logging.Logger = logging.getLogger("inferential.gateway.gr00t")

MAX_HELD_BYTES = 256 * 1024 * 1024
"""Of requests that are being answered; while they have more, no other is received."""
_MAX_CLIENTS = 4096  # REQ sockets do not say that they are gone: the one that asked longest ago is forgotten


class Gr00tGateway(Gateway):
    """Listens for REQ sockets; each is one client of the server.

    Robots are served side by side, and one that disappears does not affect the others.

    Args:
        server: a running server.
        config: address, model and token.
    """

    Config: ClassVar[type[GatewayConfig]] = Gr00tConfig

    def __init__(self, server: Server, config: Gr00tConfig) -> None:
        super().__init__(server, config)
        self._tokens = KnownTokens("gateways.gr00t.api_token", config.api_token)
        self._router: ReqRouter | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._busy: dict[bytes, int] = {}  # by identity, the bytes of the request that is being answered
        self._notices = Notices(logger)
        self._clients: OrderedDict[bytes, GatewayClient] = OrderedDict()  # by id of a token, else by identity
        self._names = map(f"gr00t-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    @property
    def address(self) -> str:
        """As tcp://HOST:PORT; RuntimeError while it does not listen."""
        if self._router is None:
            raise RuntimeError("the GR00T gateway does not listen; its address is known between start() and stop()")
        return self._router.address

    async def start(self) -> None:
        """Begins to listen; OSError if the address cannot be bound."""
        where = f"{self._config.host}:{self._config.port}"
        try:
            listener = listen(f"tcp://{where}")
        except OSError as error:
            raise OSError(error.errno, f"gateways.gr00t: cannot listen on {where}: {system_reason(error)}") from error
        largest = 2 * self._server.config.observations.max_payload_bytes
        self._router = ReqRouter(listener, largest, self._on_message, self._on_refused)

    async def stop(self) -> None:
        """Ends all connections. Idempotent."""
        router, self._router = self._router, None
        if router is None:
            return
        router.pause()
        for client in self._clients.values():
            client.close()
        await asyncio.gather(*self._answering, return_exceptions=True)
        self._clients.clear()
        await router.close()

    def _on_refused(self, peer: ReqPeer) -> None:
        self.count_ended_here(f"gr00t-{peer.identity.hex()}")

    def _on_message(self, peer: ReqPeer, message: bytes) -> None:
        assert self._router is not None
        if peer.identity in self._busy:
            self._notices.say(peer.identity, "%s: more than one request at a time", peer.identity.hex())
            text = "ValueError: one request at a time, as REQ sockets have it"
            self._router.reply(peer, pack({"error": text}, ArrayForm.NPY))
            return
        self._busy[peer.identity] = len(message)
        self._look_for_room()
        task = asyncio.create_task(self._serve(self._router, peer, message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _look_for_room(self) -> None:
        if self._router is None:
            return
        if sum(self._busy.values()) < MAX_HELD_BYTES:
            self._router.resume()
        else:
            self._router.pause()

    async def _serve(self, router: ReqRouter, peer: ReqPeer, message: bytes) -> None:
        try:
            reply = await self._reply(peer.identity, message)
        finally:
            del self._busy[peer.identity]
            self._look_for_room()
        router.reply(peer, reply)

    async def _reply(self, identity: bytes, message: bytes) -> bytes:
        form = ArrayForm.NPY
        try:
            holder = self._holder(token_of(message) if self._tokens else None)  # before anything is made of the rest
            if holder is None:
                raise ValueError("Unauthorized: Invalid API token")
            request, seen = unpack(message)
            form = seen or form
            return pack(await self._answer(identity, holder, request), form)
        except (InferenceError, ConnectionError, TimeoutError) as error:
            text = describe_error(error)
        except Exception as error:  # whatever a decoder or an encoder raises
            self.count_failure(f"gr00t-{identity.hex()}", error)
            text = describe_error(error)
        self._notices.say((identity, text[:80]), "%s: %s", identity.hex(), text)
        return pack({"error": text}, form)

    async def _answer(self, identity: bytes, holder: str, request: Any) -> Any:
        if not isinstance(request, dict):
            raise ValueError(f"expected a map with the key 'endpoint', got {type(request).__name__}")
        key = b"id " + holder.encode() if holder else b"at " + identity  # who connects chooses its identity
        endpoint = request.get("endpoint", "get_action")
        if not isinstance(endpoint, str):
            raise ValueError(f"endpoint: expected a name, got {type(endpoint).__name__}")
        if endpoint == "ping":
            return {"status": "ok", "message": "Server is running"}
        if endpoint == "get_modality_config":
            return with_modality_markers(self._config.modality_config)
        if endpoint == "reset":
            if key in self._clients:
                await self._clients[key].end_episode()
            return {}
        if endpoint == "kill":
            raise ValueError("kill is refused: other robots use this server")
        if endpoint != "get_action":
            known = "get_action, get_modality_config, ping, reset"
            raise ValueError(f"no endpoint {endpoint[:80]!r}; expected one of {known}")
        return await self._act(key, holder, request.get("data"))

    async def _act(self, key: bytes, holder: str, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(f"data: expected a map, got {type(data).__name__}")
        newer = isinstance(data.get("observation"), dict)
        answer = await self._client(key, holder).infer(data["observation"] if newer else data)
        return [answer.values, {}] if newer else answer.values

    def _client(self, key: bytes, holder: str) -> GatewayClient:
        client = self._clients.get(key)
        if client is None:
            if self._router is None:
                raise ConnectionError("the gateway ends")
            if len(self._clients) >= _MAX_CLIENTS:
                self._clients.popitem(last=False)[1].close()
            connection = self._server.connect(holder or next(self._names), "gr00t")
            client = GatewayClient(connection, self._config.model, self._config.timeout_ms)
            self._clients[key] = client
        else:
            self._clients.move_to_end(key)
        return client

    def _holder(self, token: Any) -> str | None:
        """Returns the id of the robot whose token it is, "" for a token of no robot's own; None: it may not ask."""
        if not self._tokens:
            return ""
        return self._tokens.holder(token) if isinstance(token, str) else None
