"""Tokens, in plain text and hashed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inferential.config.gateways import Gr00tConfig, OpenPiConfig
from inferential.config.tokens import KnownToken, KnownTokens

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


def test_a_key_of_one_robot_says_whose_it_is() -> None:
    config = OpenPiConfig.model_validate({"model": "m", "api_keys": ["all", {"id": "arm-01", "key": "his"}]})
    known = KnownTokens("api_keys", config.api_keys)
    assert [known.holder(shown) for shown in ("all", "his", "hers", "")] == ["", "arm-01", None, None]
    assert known.client_id("arm-01", "") == known.client_id("arm-01", "arm-01") == "arm-01"
    assert known.client_id("", "leg") == "leg"
    for holder, asked in (("arm-01", "leg"), ("", "arm-01")):
        with pytest.raises(ValueError, match=f"'{asked}' "):
            known.client_id(holder, asked)


@pytest.mark.parametrize("token", ["all", {"id": "a", "key": "k"}, ["all", {"id": "a", "key": "k"}]])
def test_one_token_or_several_may_stand_in_a_file(token: object) -> None:
    config = Gr00tConfig.model_validate({"model": "m", "api_token": token})
    assert KnownTokens("api_token", config.api_token)
    assert Gr00tConfig.model_validate(config.model_dump()) == config
    assert "all" not in repr(config)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("k", "expected a list of keys"),
        ([{"id": "arm"}], "key: Field required"),
        ([{"id": "", "key": "k"}], "id: "),
        ([{"id": "a", "key": "k", "x": 1}], "x: "),
        ([["k"]], "expected a key, or "),
    ],
)
def test_what_is_no_key_is_explained_without_showing_it(keys: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        OpenPiConfig.model_validate({"model": "m", "api_keys": keys})
