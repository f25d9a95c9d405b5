"""Tokens and keys that those who are let in show, known in plain text or by their hashes."""

from __future__ import annotations

import hashlib
import hmac
import re

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


def _digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
