"""The addresses that robots connect to: one, or a list in which each may say whether it asks for keys."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from inferential.config.section import Expected

SecurityMode = Literal["off", "optional", "required"]
MODES: tuple[SecurityMode, ...] = ("off", "optional", "required")

_ADDRESS = re.compile(r"(tcp://.+:(\d+|\*)|ipc://.+)")
_EXPECTED = "an address like tcp://*:5555 or ipc:///run/robots.sock"
_BARE = re.compile(r"(?P<host>[^\s/]+):(?P<port>\d+|\*)|:?(?P<alone>\d+)")
_ENTRY = "an address, or {address: ..., security: off, optional or required}"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One address to listen on.

    Attributes:
        bind: as tcp://HOST:PORT or ipc://PATH.
        security: its own mode; None: `security.mode`.
    """

    bind: str
    security: SecurityMode | None = None


def listen_addresses(bind: Any) -> list[ListenAddress]:
    """Returns the addresses of `transport.bind`.

    Raises:
        ValueError: it is not one; the text says what was expected, and what there is.
    """
    if not isinstance(bind, list):
        return [_address(bind, "")]
    if not bind:
        raise ValueError(f"expected at least one address, as {_EXPECTED[len('an address like ') :]}, got an empty list")
    found = [_entry(one, f"entry {number}: ") for number, one in enumerate(bind)]
    seen: set[str] = set()
    for one in found:
        if one.bind in seen and not one.bind.endswith((":0", ":*", "ipc://*")):
            raise ValueError(f"expected each address once, got {one.bind!r} twice")
        seen.add(one.bind)
    return found


def _entry(value: Any, place: str) -> ListenAddress:
    if not isinstance(value, Mapping):
        return _address(value, place)
    if unknown := sorted(map(str, value.keys() - {"address", "security"})):
        raise ValueError(f"{place}unknown key {unknown[0]!r}; expected {_ENTRY}")
    if "address" not in value:
        raise ValueError(f"{place}no address; expected {_ENTRY}")
    mode = value.get("security")
    if mode is not None and mode not in MODES:
        raise ValueError(f"{place}security: expected off, optional or required, got {mode!r}")
    return ListenAddress(_address(value["address"], place).bind, mode)


def _address(value: Any, place: str) -> ListenAddress:
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        return ListenAddress(value)
    got = "a table" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else repr(value)
    raise ValueError(f"{place}expected {_EXPECTED}, got {got}{_meant(value)}")


def _meant(value: Any) -> str:
    """Returns the address that HOST:PORT or PORT alone was meant as, for an error; "" of other values."""
    bare = _BARE.fullmatch(str(value)) if isinstance(value, str | int) else None
    if bare is None:
        return ""
    return f"; did you mean 'tcp://{bare['host'] or '*'}:{bare['port'] or bare['alone']}'?"


def _checked(value: Any) -> Any:
    listen_addresses(value)
    return value


Bind = Annotated[str | list[str | dict[str, str]], PlainValidator(_checked), Expected(_EXPECTED)]
"""What `transport.bind` takes."""


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address means this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
