"""What of a server is open to the whole network, in words: for its log, its page and `inferential check`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from inferential.config.schema import InferentialConfig

RISKS = "any machine that reaches it can read every observation, send in the name of any robot, and flood the server"


@dataclass(frozen=True, slots=True)
class Unprotected:
    """Something that has neither token nor TLS.

    Attributes:
        path: its section of the configuration.
        remedy: what protects it.
    """

    path: str
    remedy: str


def exposure(config: InferentialConfig) -> list[str]:
    """Returns a warning where robots' address is open beyond this machine without keys; else nothing."""
    bind = config.transport.bind
    if config.security.mode != "off" or not reaches_beyond(bind):
        return []
    return [
        f"transport.bind: {bind} listens beyond this machine without security: {RISKS}. Two lines end "
        "that: run `inferential keys new server`, and set security: {mode: required, server_key: "
        "keys/server.key_secret, clients: keys/clients}; or bind to tcp://127.0.0.1:PORT"
    ]


def reaches_beyond(bind: str) -> bool:
    """Returns whether an address to listen on can be reached from other machines."""
    kind, _, place = bind.partition("://")
    return kind == "tcp" and not is_loopback(place.rpartition(":")[0].strip("[]"))


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address means this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unprotected(config: InferentialConfig) -> Iterator[Unprotected]:
    """Yields what lets in any client although `security.mode` is required."""
    if config.security.mode != "required":
        return
    gateways = config.gateways
    if config.http is not None and config.http.token is None and config.http.tls_certificate is None:
        yield Unprotected("http", "set http.token")
    openpi = gateways.openpi
    if openpi is not None and not openpi.api_keys and openpi.tls_certificate is None:
        yield Unprotected("gateways.openpi", "set gateways.openpi.api_keys")
    if gateways.gr00t is not None and gateways.gr00t.api_token is None:
        yield Unprotected("gateways.gr00t", "set gateways.gr00t.api_token")
    if gateways.act is not None and gateways.act.token is None:
        yield Unprotected("gateways.act", "set gateways.act.token")
    if gateways.lerobot is not None:
        yield Unprotected("gateways.lerobot", "serve its robots, whose protocol has no key, by a server of their own")
