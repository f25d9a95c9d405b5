"""A bare unary call of gRPC with the same bytes: no message of it is read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

METHOD = "/overhead.Echo/Infer"
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def version() -> str:
    """Of grpcio."""
    return f"grpcio {grpc.__version__}"


def serve(ready: Callable[[str], None]) -> None:
    """Serves until standard input ends."""
    action = bytes(64)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: action)
    server = grpc.server(ThreadPoolExecutor(8), options=_UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("overhead.Echo", {"Infer": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(f"127.0.0.1:{port}")
    sys.stdin.read()
    server.stop(None)


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """One channel; the arrays' bytes as one message, made anew for each call."""
    call = grpc.insecure_channel(address, options=_UNLIMITED).unary_unary(METHOD)
    arrays = list(observation.values())
    return lambda: call(b"".join(array.data.cast("B") for array in (each.reshape(-1) for each in arrays)))
