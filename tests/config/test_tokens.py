"""Tokens, in plain text and hashed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.config.tokens import KnownToken

_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(token=_text, other=_text)
def test_a_token_lets_in_only_a_client_that_shows_it_hashed_or_not(token: str, other: str) -> None:
    digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
    hashed, plain = KnownToken("token", f"sha256:{digest}"), KnownToken("token", f"plain {token}")
    assert hashed.matches(token)
    assert plain.matches(f"plain {token}")
    assert hashed.matches(other) == (other == token)
    assert plain.matches(f"plain {other}") == (other == token)


def test_the_hash_itself_lets_no_client_in() -> None:
    known = "sha256:" + hashlib.sha256(b"token").hexdigest()
    assert not KnownToken("token", known).matches(known)


@pytest.mark.parametrize("known", ["sha256:", "sha256:abcd", "sha256:" + "g" * 64])
def test_what_is_no_hash_is_an_error(known: str) -> None:
    with pytest.raises(ValueError, match="token: expected sha256: and 64"):
        KnownToken("token", known)
