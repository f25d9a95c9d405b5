"""A small message that stands for very many values is refused before they are made."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.gateway.gr00t_messages import unpack as unpack_gr00t
from inferential.gateway.json_numpy import loads
from inferential.gateway.kserve.messages import message_class
from inferential.proto import value_limits
from inferential.proto.msgpack_numpy import pack, unpack
from inferential.proto.open_inference import read_infer
from inferential.proto.value_limits import check_json, check_made, check_msgpack, check_protobuf

MANY = 1_000_000
Asked = message_class("ModelInferRequest")
LISTS = b"\xdd" + MANY.to_bytes(4) + b"\x90" * MANY
MESSAGES = {
    "empty lists": LISTS,
    "empty maps": b"\xdd" + MANY.to_bytes(4) + b"\x80" * MANY,
    "short texts": b"\xdd" + MANY.to_bytes(4) + b"\xa2ab" * MANY,
    "lists of lists": b"\xdc\x03\xe8" + (b"\xdc\x03\xe8" + b"\x90" * 1000) * 1000,
    "pairs": b"\xdf" + MANY.to_bytes(4) + b"\xcd\x01\x02\x90" * MANY,
    "a map in a map": b"\x81\xa4data" + b"\x81\xa1a" + LISTS,
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("read", [unpack, unpack_gr00t])
def test_msgpack_of_too_many_values_is_refused_before_they_are_made(name: str, read: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(msgpack, "unpackb", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="more than 250000 values: send numbers as arrays"):
        read(MESSAGES[name])


def test_large_arrays_and_what_is_no_msgpack_are_left_to_the_reader() -> None:
    observation = {"image": np.zeros((1000, 1000, 3), np.uint8), "text": "x" * 100_000, "numbers": [1.5] * 10_000}
    read = unpack(pack(observation))
    assert read["image"].shape == (1000, 1000, 3)
    check_msgpack(b"\xc1" * 100_000)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-100, 2**40), inner),
    max_leaves=60,
)


def count_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(count_of(key) + count_of(inner) for key, inner in value.items())
    return 1 + (sum(map(count_of, value)) if isinstance(value, list) else 0)


@settings(deadline=None)
@given(VALUES)
def test_each_value_counts_once(value: Any) -> None:
    data, count = msgpack.packb(value), count_of(value)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(value_limits, "SMALL_BYTES", 0)
        check_msgpack(data, count)
        with pytest.raises(ValueError, match="more than"):
            check_msgpack(data, count - 1)


@pytest.mark.parametrize("value", [b"\xc7\x05\x01hello", b"\xd6\x01four", b"\xd8\x01" + bytes(16), b"\xc8\0\1\1x"])
def test_extensions_are_one_value(value: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr(value_limits, "SMALL_BYTES", 0)
    check_msgpack(b"\x92" + value + b"\x01", 3)
    with pytest.raises(ValueError, match="more than 2"):
        check_msgpack(b"\x92" + value + b"\x01", 2)


def test_json_of_too_many_values_is_refused_before_they_are_made(monkeypatch: Any) -> None:
    text = b'{"inputs": [' + b"[]," * 2_100_000 + b"[]]}"
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was read"))
    for read in (loads, lambda body: read_infer(body, None, "inputs")):
        with pytest.raises(ValueError, match="more than 2000000 values"):
            read(text)


def test_json_with_much_text_is_read() -> None:
    assert len(loads(json.dumps({"text": "x" * 3_000_000, "numbers": [1.5] * 100_000}))["numbers"]) == 100_000
    check_json("[" * 100)


def _field(number: int, body: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(body)) + body


def _number(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


PROTOBUF = {
    "empty inputs": (_field(5, b"") * MANY, "more than 100000 fields"),
    "texts of an input": (_field(5, _field(5, _field(8, b"") * MANY)), "more than 100000 fields"),
    "parameters of an input": (_field(5, _field(4, b"") * MANY), "more than 100000 fields"),
    "unknown fields": (b"\xf8\x01\x01" * MANY, "more than 100000 fields"),
    "groups": (b"\xfb\x01" * MANY, "more than 100000 fields"),
    "packed numbers": (_field(5, _field(5, _field(3, b"\1" * 3 * MANY))), "more than 2000000 numbers"),
    "packed floats": (_field(5, _field(5, _field(6, b"\0" * 9 * MANY))), "more than 2000000 numbers"),
    "axes": (_field(5, _field(3, b"\1" * 3 * MANY)), "more than 2000000 numbers"),
}


@pytest.mark.parametrize("name", PROTOBUF)
def test_protobuf_of_too_many_values_is_refused_before_they_are_made(name: str) -> None:
    message, text = PROTOBUF[name]
    with pytest.raises(ValueError, match=text):
        check_protobuf(message, Asked.DESCRIPTOR)


def test_protobuf_of_few_values_is_let_pass_however_large_it_is() -> None:
    contents = message_class("InferTensorContents")(int_contents=range(30_000))
    tensor = message_class("InferTensor")(name="x", datatype="INT32", shape=[30_000], contents=contents)
    message = Asked(inputs=[tensor] * 3, raw_input_contents=[bytes(1 << 20)] * 3).SerializeToString()
    check_protobuf(message, Asked.DESCRIPTOR)
    for cut in range(0, len(message), 99_991):  # what cannot be read is left to protobuf
        check_protobuf(message[:cut], Asked.DESCRIPTOR)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_whatever_bytes_protobuf_is_it_is_counted_or_refused(data: bytes, times: int) -> None:
    with contextlib.suppress(ValueError):
        check_protobuf(data * times + bytes(value_limits.SMALL_BYTES), Asked.DESCRIPTOR)


def test_values_that_were_read_are_counted_wherever_they_are_and_an_array_is_one() -> None:
    value = {"picture": np.zeros(1000), "names": ["a", ["b", {"c": None}]]}
    check_made(value, 8)  # two maps, two lists, an array and three others
    with pytest.raises(ValueError, match="more than 7 values"):
        check_made(value, 7)
    check_made({"text": "x" * value_limits.MAX_TEXT})
    with pytest.raises(ValueError, match="characters of strings"):
        check_made({"text": "x" * value_limits.MAX_TEXT, "more": ["x"]})
