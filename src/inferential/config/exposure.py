"""What of a server is open to the whole network, in words: for its log, its page and `inferential check`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from inferential.config.foxglove import FoxgloveConfig
from inferential.config.gateways import ActConfig, KServeConfig, KServeGrpcConfig, LeRobotConfig
from inferential.config.schema import Gr00tConfig, InferentialConfig, OpenPiConfig
from inferential.config.services import HttpConfig, ServiceConfig, services

NEITHER = "has neither a token nor TLS, and security.mode is required"
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
    mode = config.security.mode
    open_to_all = [
        one.bind for one in config.transport.addresses if (one.security or mode) == "off" and reaches_beyond(one.bind)
    ]
    if not open_to_all:
        return []
    remedy = (
        "run `inferential keys new server`, and set security: {mode: required, server_key: keys/server.key_secret, "
        "clients: keys/clients}"
        if mode == "off"
        else f"leave out security: off there, so that security.mode ({mode}) holds; robots need keys then"
    )
    return [
        f"transport.bind: {', '.join(open_to_all)} listens beyond this machine without security: {RISKS}. Two lines "
        f"end that: {remedy}; or bind to tcp://127.0.0.1:PORT"
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
    for _, section in services(config):
        if (found := without_protection(section)) is not None:
            yield found


def without_protection(section: ServiceConfig) -> Unprotected | None:
    """Returns what lacks both a token and TLS; None for a section that has one, or that can have none."""
    for kind, path, token in _TOKENS:
        if not isinstance(section, kind):
            continue
        if getattr(section, token) or getattr(section, "tls_certificate", None) is not None:
            return None
        return Unprotected(path, f"set {path}.{token}")
    if isinstance(section, FoxgloveConfig) and not is_loopback(section.host):
        return Unprotected("foxglove", "set foxglove.host to 127.0.0.1: its protocol has no password")
    if isinstance(section, LeRobotConfig):
        return Unprotected("gateways.lerobot", "serve its robots, whose protocol has no key, by a server of their own")
    return None


_TOKENS: tuple[tuple[type[ServiceConfig], str, str], ...] = (
    (HttpConfig, "http", "token"),
    (OpenPiConfig, "gateways.openpi", "api_keys"),
    (Gr00tConfig, "gateways.gr00t", "api_token"),
    (ActConfig, "gateways.act", "token"),
    (KServeGrpcConfig, "gateways.kserve_grpc", "token"),  # before the section that it extends
    (KServeConfig, "gateways.kserve", "token"),
)
