"""Observations as command lines tell them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inferential.cli.errors import CliError
from inferential.cli.observation import observation, parse


def test_numbers_text_and_files_are_distinguished(place: Path) -> None:
    np.save(place / "state.npy", np.arange(3))
    Image.fromarray(np.full((2, 3, 3), 7, np.uint8)).save(place / "cup.png")
    result = observation(["state=[1, 2]", "n:int32=5", "a=@state.npy", "image=@cup.png", "prompt=pick it up"])
    assert result.pop("prompt") == "pick it up"
    assert {key: (value.dtype.name, value.shape) for key, value in result.items()} == {
        "state": ("float32", (2,)),
        "n": ("int32", ()),
        "a": ("int64", (3,)),
        "image": ("uint8", (2, 3, 3)),
    }


def test_a_key_that_is_given_twice_is_an_error() -> None:
    with pytest.raises(CliError, match="state: given twice"):
        observation(["state=1", "state:int32=2"])


def test_text_that_begins_like_a_list_stands_in_quotes() -> None:
    assert observation(['prompt="[pick] it up"'])["prompt"] == "[pick] it up"


@pytest.mark.parametrize("key", ["urgency", "priority", "steps_remaining", "timeout_ms", "self"])
def test_a_key_that_the_sdk_cannot_send_is_an_error(key: str) -> None:
    with pytest.raises(CliError, match=rf"^{key}: cannot be a key, it is an argument of the SDK's infer"):
        observation([f"{key}=1"])


def test_no_arguments_are_no_values() -> None:
    assert observation(None) == {}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("state", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("a:floaty=1", "a: no dtype 'floaty'"),
        ("a=[1,[2]]", "a: "),
        ("a=[1, x]", "a: expected a list in JSON, got '[1, x]' (Expecting value"),
        ("a=[1,", "a: expected a list in JSON, got '[1,'; where it has spaces, quote the whole argument: 'a=[1, ...]'"),
        ("a:(2,3=1", "a: no dtype"),
        ("a=@empty.npy", "a: cannot read empty.npy"),
        ("a=" + "[" * 100_000, "a: nested too deeply"),
        ("a:int8=hello", "a: expected JSON numbers for int8, got 'hello'"),
        ("a=@nothing.png", "a: cannot read nothing.png: No such file or directory"),
    ],
)
def test_invalid_values_are_reported_by_key(place: Path, given: str, text: str) -> None:
    (place / "empty.npy").touch()
    with pytest.raises(CliError, match=re.escape(text)):
        parse(given)


def test_an_image_without_the_extra_that_reads_it_names_the_extra(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CliError, match=r"inferential\[images\]"):
        parse("a=@cup.png")
