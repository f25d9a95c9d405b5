"""Binds servers of gRPC, and says why where that fails, which gRPC does not; ends calls with an error."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import grpc

from inferential.config.services import ListenerConfig
from inferential.server.tls import check_tls
from inferential.transport import descriptors

logger: logging.Logger = logging.getLogger("inferential.gateway")

HANDSHAKE_MS = 10_000
"""How long a connection may take until it speaks HTTP/2, TLS before it included; gRPC leaves it two minutes."""


_MAX_TEXT = 2000
MOST_CALLS = 4096
"""That may wait until they are looked at; of more than 1000 gRPC cancels some, without a word."""


async def end_call(context: Any, code: grpc.StatusCode, text: str) -> None:
    """Ends a call with an error; call it last, and return.

    gRPC has ended those itself whose message is too large, once it is unpacked: it raises what only it can tell apart.
    """
    try:
        await context.abort(code, text[:_MAX_TEXT])
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        logger.debug("a call has ended before it was answered by %s: %s", text, error)


def listening_options() -> tuple[tuple[str, int], ...]:
    """Returns the options that every server has."""
    most = descriptors.limit()
    few = () if most is None else (("grpc.max_allowed_incoming_connections", int(most * descriptors.SHARE)),)
    return (
        *few,
        ("grpc.so_reuseport", 0),  # else a second server shares the port, and clients reach either
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.server.max_pending_requests", MOST_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MOST_CALLS),
    )


def listen(server: Any, section: str, config: ListenerConfig) -> str:
    """Adds the port of a section to a server, with TLS where it has a certificate; returns HOST:PORT.

    Args:
        server: of grpc.aio, not started yet.
        section: its name, for errors.
        config: host and port; `tls_certificate` and `tls_key` where it has such.

    Raises:
        OSError: it cannot be bound, or a file of TLS cannot be read.
    """
    host = f"[{config.host}]" if ":" in config.host else config.host
    certificate = getattr(config, "tls_certificate", None)
    key = getattr(config, "tls_key", None)
    check_tls(section, certificate, key)
    try:
        if certificate is None:
            port = server.add_insecure_port(f"{host}:{config.port}")
        else:
            pair = Path(key or certificate).read_bytes(), Path(certificate).read_bytes()
            port = server.add_secure_port(f"{host}:{config.port}", grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise _cannot_listen(section, config.host, config.port) from error
    return f"{host}:{port}"


def _cannot_listen(section: str, host: str, port: int) -> OSError:
    why, number = "gRPC cannot bind it", None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        why, number = error.strerror or str(error), error.errno
    return OSError(number, f"{section}: cannot listen on {host}:{port}: {why}")
