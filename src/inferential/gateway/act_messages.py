"""Messages of `POST /act`: JSON with arrays as json-numpy writes them, plain JSON, and either as text within JSON.

No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inferential.gateway.json_numpy import ARRAY_KEY, dumps, loads
from inferential.gateway.plain_json import with_arrays, without_arrays
from inferential.policies.tensors import TensorSpec
from inferential.proto.value_limits import SMALL_BYTES, check_made

_EXAMPLE = '{"state": [1, 2, 3]}'


@dataclass(frozen=True, slots=True)
class Form:
    """How a request came, and its answer goes.

    Attributes:
        doubled: as JSON within JSON.
        plain: without an array as json-numpy writes it: then its lists are arrays, and so are the answer's.
    """

    doubled: bool
    plain: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its observation by key, and its form."""

    observation: dict[str, Any]
    form: Form


def is_plain(body: bytes | bytearray) -> bool:
    """Returns whether a body has no array as json-numpy writes it."""
    return ARRAY_KEY.encode() not in body


def read(body: bytes | bytearray, inputs: Sequence[TensorSpec]) -> Asked:
    """Returns a request; where it is plain, with arrays in place of its lists.

    Args:
        body: of HTTP.
        inputs: what the model declares, of a plain request; empty where it takes anything.

    Raises:
        InvalidObservation: an input of a plain request does not fit.
        ValueError: the body is no such request.
    """
    try:
        value = loads(body)
        doubled = isinstance(value, dict) and value.keys() == {"encoded"}
        if doubled:
            if not isinstance(text := value["encoded"], str):
                raise ValueError(f"encoded: expected JSON as text, got {type(text).__name__}")
            value = loads(text)
    except ValueError as error:
        raise ValueError(f"expected JSON, as {_EXAMPLE}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a map of observations, as {_EXAMPLE}, got a {type(value).__name__}")
    plain = is_plain(body)
    if plain:
        value = with_arrays(value, inputs)
    if len(body) > SMALL_BYTES:
        check_made(value)
    return Asked(value, Form(doubled, plain))


def write(content: Any, form: Form) -> str:
    """Returns an answer as text.

    Raises:
        TypeError, ValueError: naming what JSON has no form for.
    """
    if form.plain:
        content = without_arrays("" if isinstance(content, dict) else "actions", content)
    text = dumps(content)
    return dumps(text) if form.doubled else text
