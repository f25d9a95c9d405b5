"""Robots that speak GR00T's policy protocol: ZeroMQ REQ to REP, msgpack, arrays as the bytes of `np.save`.

    request   {"endpoint": name, "data": ..., "api_token": ...}; without an endpoint it is get_action
    arrays    {"__ndarray_class__": true, "as_npy": bytes}
    newer     data = {"observation": map, "options": map or nil}, answered by [action, info]
    older     data = observation, answered by the action, a map
    errors    {"error": text}

A request to kill the server is refused: it is not one robot's to end. (NVIDIA Isaac GR00T, `PolicyServer`.)
"""

from __future__ import annotations

import asyncio
import hmac
import io
import itertools
import logging
import math
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import zmq
import zmq.asyncio

from inferential.errors import InferenceError
from inferential.gateway.base import Gateway, Guest, answer_of, flat, text_of
from inferential.server import Server

if TYPE_CHECKING:
    from inferential.config.schema import Gr00tConfig

logger = logging.getLogger("inferential.gateway.gr00t")

_GUESTS = 4096  # connections that are remembered; one that asked longest ago is forgotten


class Gr00tGateway(Gateway):
    """Listens for REQ sockets; each is one client of the server.

    A ROUTER in place of the REP of the original: robots are served side by side, and one that goes hurts nobody.

    Args:
        server: that runs.
        config: address, model and token.
    """

    def __init__(self, server: Server, config: Gr00tConfig) -> None:
        super().__init__(server)
        self._config = config
        self._token = None if config.api_token is None else config.api_token.get_secret_value().encode()
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._listening: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._guests: OrderedDict[bytes, Guest] = OrderedDict()
        self._names = map(f"gr00t-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    @property
    def address(self) -> str:
        """As tcp://HOST:PORT; RuntimeError while it does not listen."""
        if self._socket is None:
            raise RuntimeError("the GR00T gateway does not listen: its address is known from start() to stop()")
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return endpoint.rstrip(b"\0").decode()

    async def start(self) -> None:
        """As of `Gateway`."""
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 500)
        socket.setsockopt(zmq.MAXMSGSIZE, 2 * self._server.config.observations.max_payload_bytes)
        port = "*" if self._config.port == 0 else str(self._config.port)
        try:
            socket.bind(f"tcp://{self._config.host}:{port}")
        except zmq.ZMQError as error:
            socket.close(linger=0)
            context.term()
            where = f"{self._config.host}:{port}"
            raise OSError(error.errno, f"gateways.gr00t: cannot listen on {where}: {error.strerror}") from error
        self._context, self._socket = context, socket
        self._listening = asyncio.create_task(self._listen(socket))

    async def stop(self) -> None:
        """As of `Gateway`."""
        if self._socket is None or self._context is None or self._listening is None:
            return
        self._listening.cancel()
        for guest in self._guests.values():
            guest.close()
        await asyncio.gather(self._listening, *self._answering, return_exceptions=True)
        self._guests.clear()
        socket, self._socket = self._socket, None
        socket.close()
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    async def _listen(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            if len(frames) != 3 or frames[1]:
                logger.warning("a message of %d frames, not as of a REQ socket: dropped", len(frames))
                continue
            task = asyncio.create_task(self._serve(socket, frames[0], frames[2]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _serve(self, socket: zmq.asyncio.Socket, identity: bytes, message: bytes) -> None:
        try:
            answer = await self._answer(identity, message)
        except (InferenceError, TimeoutError, TypeError, ValueError) as error:
            logger.info("%s: %s", identity.hex(), text_of(error))
            answer = {"error": text_of(error)}
        except ConnectionError:
            return  # the gateway ends
        await socket.send_multipart((identity, b"", _pack(answer)))

    async def _answer(self, identity: bytes, message: bytes) -> Any:
        request = _unpack(message)
        if not isinstance(request, dict):
            raise ValueError(f"expected a map with the key 'endpoint', got {type(request).__name__}")
        if self._token is not None and not self._is_token(request.get("api_token")):
            raise ValueError("Unauthorized: Invalid API token")
        endpoint = request.get("endpoint", "get_action")
        if endpoint == "ping":
            return {"status": "ok", "message": "Server is running"}
        if endpoint == "get_modality_config":
            return self._config.modality_config
        if endpoint == "reset":
            return {}  # the models here keep nothing of a robot
        if endpoint == "kill":
            raise ValueError("kill: refused; this server is not one robot's to end")
        if endpoint != "get_action":
            raise ValueError(f"no endpoint {endpoint!r}; there is: get_action, get_modality_config, ping, reset")
        return await self._act(identity, request.get("data"))

    async def _act(self, identity: bytes, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(f"data: expected a map, got {type(data).__name__}")
        newer = isinstance(data.get("observation"), dict)
        observation = data["observation"] if newer else data
        action = answer_of(await self._guest(identity).infer(flat(observation)))
        return [action, {}] if newer else action

    def _guest(self, identity: bytes) -> Guest:
        guest = self._guests.get(identity)
        if guest is None:
            if len(self._guests) >= _GUESTS:
                self._guests.popitem(last=False)[1].close()
            guest = Guest(self._server.connect(next(self._names), "gr00t"), self._config.model)
            self._guests[identity] = guest
        else:
            self._guests.move_to_end(identity)
        return guest

    def _is_token(self, told: Any) -> bool:
        assert self._token is not None
        return isinstance(told, str) and hmac.compare_digest(told.encode(), self._token)


def _pack(answer: Any) -> bytes:
    packed: bytes = msgpack.packb(answer, default=_encode)
    return packed


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        output = io.BytesIO()
        np.save(output, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": output.getvalue()}
    raise TypeError(f"a result of type {type(value).__name__} has no place in this protocol")


def _unpack(message: bytes) -> Any:
    try:
        return msgpack.unpackb(message, object_hook=_decode, strict_map_key=False)
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"no message of this protocol: {error or type(error).__name__}") from error


def _decode(told: dict[Any, Any]) -> Any:
    if "__ndarray_class__" not in told:
        return told
    data = told.get("as_npy")
    if not isinstance(data, bytes):
        raise ValueError("an array without as_npy")
    return _read_npy(data)


def _read_npy(data: bytes) -> np.ndarray[Any, Any]:
    """Returns the array of a .npy file as a view on its bytes.

    `np.load` reads archives too, whose members may be far larger than what was sent, allocates what a header asks for
    before it looks at what is there, and raises a dozen types on broken files.

    Raises:
        ValueError: it is no .npy file, holds objects, or has another size than its header says.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    except Exception as error:
        raise ValueError(f"as_npy: expected a .npy file: {error}") from error
    if dtype.hasobject:
        raise ValueError("as_npy: arrays of objects are not read")  # a pickle could run anything
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if expected != found or any(size < 0 for size in shape):
        raise ValueError(f"as_npy: an array of {dtype} and shape {shape} has {expected} bytes, got {found}")
    return np.ndarray(shape, dtype, data, file.tell(), order="F" if fortran_order else "C")
