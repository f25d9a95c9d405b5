"""What of a server is open to the whole network, in words: for its log, its page and `inferential check`."""

from __future__ import annotations

from collections.abc import Iterator

from inferential.config.addresses import is_loopback
from inferential.config.schema import InferentialConfig
from inferential.config.services import services

NEITHER = "has neither a token nor TLS, and security.mode is required"
RISKS = "any machine that reaches it can read every observation, send in the name of any robot, and flood the server"


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


def unprotected(config: InferentialConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields the place of each section that lets in any client although `security.mode` is required, and what to do."""
    if config.security.mode == "required":
        for place, section in services(config):
            if remedy := section.protection():
                yield place, remedy
