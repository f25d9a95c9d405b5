"""Checks of the types of arguments of connections and handles.

They run when a connection or a handle is made, not with each observation. Ranges are checked where values are used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from inferential.client.adaptive import Auto


def check_names(client_id: str | int, client_type: str) -> None:
    """Checks the types of a client's id and type.

    Raises:
        TypeError: the type is not text, or the id neither text nor a whole number.
    """
    if not isinstance(client_id, str) and not _is(client_id, Integral):
        raise _wrong("client_id", "text or a whole number", client_id)
    if not isinstance(client_type, str):
        raise _wrong("client_type", "text", client_type)


def addresses_of(server: str | Sequence[str]) -> list[str]:
    """Returns the addresses, one by one.

    Raises:
        TypeError: it is neither text nor a sequence of texts.
    """
    if isinstance(server, str):
        return [part.strip() for part in server.split(",")]
    servers: list[Any] = [server] if isinstance(server, bytes) or not isinstance(server, Iterable) else list(server)
    if not all(isinstance(one, str) for one in servers):
        raise _wrong("server", "HOST:PORT, tcp://HOST:PORT or ipc://PATH, or a sequence of such texts", server)
    return servers


def check_encode(rules: Mapping[str, str | Auto] | None) -> None:
    """Checks the type of `encode=`.

    Raises:
        TypeError: it is not a mapping of text to text or Auto.
    """
    if rules is None:
        return
    if not isinstance(rules, Mapping):
        raise _wrong("encode", "patterns on keys, and how their images are sent, as {'camera/*': 'jpeg'}", rules)
    for pattern, how in rules.items():
        if not isinstance(pattern, str):
            raise _wrong("encode", "patterns on keys, as 'camera/*'", pattern)
        if not isinstance(how, str | Auto):
            expected = "'raw', 'png', 'jpeg' or 'jpeg:QUALITY' of 1 to 100, 'auto' or Auto"
            raise _wrong(f"encode[{pattern!r}]", expected, how)


def timeout_s_of(timeout_ms: float) -> float:
    """Returns a timeout in seconds.

    Raises:
        TypeError, ValueError: it is not a number.
    """
    try:
        timeout_s = float(timeout_ms / 1e3)  # of numpy's float32 too, which the system's calls do not take
    except (TypeError, OverflowError):
        timeout_s = math.nan
    if not math.isnan(timeout_s):
        return timeout_s
    text = f"timeout_ms: expected a number of milliseconds (0: do not wait), got {timeout_ms!r}"
    raise ValueError(text) if isinstance(timeout_ms, Real) else TypeError(text)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _wrong(name: str, expected: str, value: object) -> TypeError:
    return TypeError(f"{name}: expected {expected}, got {value!r}")
