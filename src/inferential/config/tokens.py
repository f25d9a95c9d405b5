"""Tokens and keys that those who are let in show, known in plain text or by their hashes.

A gateway's key may be one robot's: `{id: arm-01, key: ...}`. Who shows it is the client arm-01 and no other, so that
rights of `clients.known` hold for it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PlainValidator, SecretStr, TypeAdapter, ValidationError

from inferential.config.section import Expected, Secret, Section

_HASHED = "sha256:"


class KnownToken:
    """One token that lets its bearer in.

    Args:
        name: of the field, for errors.
        known: the token, or `sha256:` and the 64 hexadecimal digits of its SHA-256 (`printf %s TOKEN | sha256sum`), so
            that who reads the configuration cannot use it. A token has to be long and random for that.

    Raises:
        ValueError: what follows `sha256:` is no hash.
    """

    def __init__(self, name: str, known: str) -> None:
        if known.startswith(_HASHED):
            digits = known.removeprefix(_HASHED)
            if not re.fullmatch(r"[0-9a-fA-F]{64}", digits):
                raise ValueError(f"{name}: expected sha256: and 64 hexadecimal digits, got {len(digits)} characters")
            self._digest = bytes.fromhex(digits)
        else:
            self._digest = _digest_of(known)

    def matches(self, shown: str) -> bool:
        """Returns whether what someone shows is the token, in a time that tells nothing about it."""
        return hmac.compare_digest(_digest_of(shown), self._digest)


class RobotKey(Section):
    """A key of one robot."""

    id: Annotated[str, Field(min_length=1, max_length=255)]
    """The robot's client id."""
    key: Secret
    """The key, or its hash as sha256:HEX."""


def _checked_key(value: Any) -> SecretStr | RobotKey:
    try:
        if isinstance(value, Mapping):
            return RobotKey.model_validate(value)
        return value if isinstance(value, RobotKey) else _SECRET.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        hint = "expected a key, or {id: ..., key: ...}"
        raise ValueError(f"{hint}: {f'{place}: ' if place else ''}{first['msg']}") from None  # no value: it is secret


def _checked_keys(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of keys, got {'a table' if isinstance(value, Mapping) else 'one value'}")
    return [_checked_key(one) for one in value]


def _checked_token(value: Any) -> Any:
    if value is None:
        return None
    return _checked_keys(value) if isinstance(value, list) else _checked_key(value)


_SECRET: TypeAdapter[SecretStr] = TypeAdapter(Secret)
_FORMS = "each a string that is not empty, or {id: ..., key: ...}"
RobotKeys = Annotated[list[SecretStr | RobotKey], PlainValidator(_checked_keys), Expected(f"a list of keys, {_FORMS}")]
RobotTokens = Annotated[
    SecretStr | RobotKey | list[SecretStr | RobotKey] | None,
    PlainValidator(_checked_token),
    Expected(f"a token, or a list of them, {_FORMS}"),
]


class KnownTokens:
    """The tokens that a gateway accepts, and whose each is.

    Args:
        name: of the field, for errors.
        known: one, several or none.

    Raises:
        ValueError: one that begins with `sha256:` is no hash.
    """

    def __init__(self, name: str, known: SecretStr | RobotKey | list[SecretStr | RobotKey] | None) -> None:
        listed = known if isinstance(known, list) else [] if known is None else [known]
        self._known = [
            (KnownToken(name, one.key.get_secret_value()), one.id)
            if isinstance(one, RobotKey)
            else (KnownToken(name, one.get_secret_value()), "")
            for one in listed
        ]
        self._ids = {client_id for _, client_id in self._known if client_id}

    def __bool__(self) -> bool:
        return bool(self._known)

    def holder(self, shown: str) -> str | None:
        """Returns the id of the client whose token it is, "" for a token of no client's own; None: it is not known.

        All are compared, each in constant time: the delay of an answer reveals nothing of a token.
        """
        found = [client_id for token, client_id in self._known if token.matches(shown)]
        return found[0] if found else None

    def client_id(self, holder: str, asked: str) -> str:
        """Returns the id that a client may use; "" where it has none of its own.

        Args:
            holder: as `holder` returned it.
            asked: the id that it gives itself; "": none.

        Raises:
            ValueError: the id is not its own.
        """
        if holder and asked and asked != holder:
            raise ValueError(f"{asked!r} is not the id of the key that was shown, which is {holder!r}")
        if not holder and asked in self._ids:
            raise ValueError(f"{asked!r} belongs to a key, and this client came without it")
        return holder or asked


def _digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
