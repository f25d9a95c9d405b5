"""Clients of protocols without a session, as HTTP: which client sent a request, and when a client is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from inferential.config.gateways import HttpGatewayConfig
from inferential.config.tokens import KnownTokens
from inferential.gateway.base import GatewayClient
from inferential.gateway.refusals import RequestRefused
from inferential.server import Server
from inferential.server.inprocess import InProcessConnection

CLIENT_ID_HEADER = "X-Client-Id"
"""A client that sends this header is known by its value; the others by their machine."""
FORGET_S = 60.0
"""After this long without a request a client is forgotten."""
MAX_CLIENTS = 4096
"""Of one gateway. For more of them that is forgotten which has had no request for longest: ids are made up easily."""
_MAX_HANDLES = 16


class Clients:
    """The clients of one gateway.

    A client is known by its id. Requests without one are distinguished by their machine; of those that one machine has
    open at a time, each is answered as another client.

    Args:
        server: a running server.
        kind: of its clients, and the name of its section.
        config: its tokens.
    """

    def __init__(self, server: Server, kind: str, config: HttpGatewayConfig) -> None:
        self._server = server
        self._kind = kind
        self._tokens = KnownTokens(f"gateways.{kind}.token", config.token)
        self._known: dict[str, list[ServedClient]] = {}  # the last used last
        self._names = map(f"{kind}-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    def id_of(self, authorization: str, asked: str) -> str:
        """Returns a client's id, of its token or as it says itself; "" if it has none.

        Args:
            authorization: "Bearer TOKEN", or empty.
            asked: the id that it gives itself.

        Raises:
            RequestRefused: it has no token, or the id is another client's.
        """
        holder: str | None = ""
        if self._tokens:
            scheme, _, token = authorization.partition(" ")
            holder = self._tokens.holder(token.strip()) if scheme.lower() == "bearer" else None
        if holder is None:
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Bearer TOKEN")
        try:
            return self._tokens.client_id(holder, asked)
        except ValueError as error:
            raise RequestRefused(HTTPStatus.FORBIDDEN, f"{CLIENT_ID_HEADER}: {error}") from error

    @contextlib.contextmanager
    def client(self, client_id: str, host: str) -> Iterator[ServedClient]:
        """Gives the client that a request belongs to, for as long as it is answered.

        Args:
            client_id: its id; "" if it has none.
            host: its machine.

        Raises:
            RequestRefused: there is no room for another.
            ValueError: naming the header, where the id is invalid.
        """
        group = f"id {client_id}" if client_id else f"at {host}"
        known = reversed(self._known.get(group, []))
        client = next((one for one in known if client_id or not one.requests), None)
        if client is None:
            client = self._connect(client_id or next(self._names), group)
        self._known[group] = self._known.pop(group)
        client.requests += 1
        if client.forgetting is not None:
            client.forgetting.cancel()
        try:
            yield client
        finally:
            client.requests -= 1
            if client.requests == 0 and client in self._known.get(group, ()):
                client.forgetting = asyncio.get_running_loop().call_later(FORGET_S, self.forget, client)

    def _connect(self, name: str, group: str) -> ServedClient:
        try:
            connection = self._server.connect(name, self._kind)
        except ValueError as error:
            raise ValueError(f"{CLIENT_ID_HEADER}: {error}") from error
        if sum(map(len, self._known.values())) >= MAX_CLIENTS:
            idle = next((one for known in self._known.values() for one in known if not one.requests), None)
            if idle is None:
                connection.close()
                raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CLIENTS} clients have requests open")
            self.forget(idle)
        client = ServedClient(group, connection)
        self._known.setdefault(group, []).append(client)
        return client

    def forget(self, client: ServedClient) -> None:
        """Ends a client of the server."""
        if client.forgetting is not None:
            client.forgetting.cancel()
        client.connection.close()
        group = self._known.get(client.group, [])
        if client in group:
            group.remove(client)
        if not group:
            self._known.pop(client.group, None)

    def close(self) -> None:
        """Ends all."""
        for client in [one for group in self._known.values() for one in group]:
            self.forget(client)


class ServedClient:
    """One client of the server, and how many requests it has.

    Args:
        group: whose requests it answers.
        connection: to the server.
    """

    def __init__(self, group: str, connection: InProcessConnection) -> None:
        self.group = group
        self.connection = connection
        self.requests = 0
        self.forgetting: asyncio.TimerHandle | None = None
        self._robots: dict[tuple[Any, ...], GatewayClient] = {}

    def robot(self, model_id: str, timeout_ms: float, **arguments: Any) -> GatewayClient:
        """Returns the client for a model.

        Args:
            model_id, timeout_ms: as for `GatewayClient`.
            arguments: of its handle, `Connection.model`.
        """
        key = (model_id, timeout_ms, *sorted(arguments.items()))
        robot = self._robots.get(key)
        if robot is None:
            if len(self._robots) >= _MAX_HANDLES:
                self._robots.clear()
            robot = self._robots[key] = GatewayClient(self.connection, model_id, timeout_ms, **arguments)
        return robot
