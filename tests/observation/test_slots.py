"""Validation of tensor descriptions against their payload."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferential.observation import ObservationError, SlotInfo, validate_slots
from inferential.observation.values import to_values


def slot(**fields: Any) -> SlotInfo:
    inputs = {
        "key": "x",
        "dtype": "float32",
        "shape": (2,),
        "byte_offset": 0,
        "byte_length": 8,
        "timestamp_ns": 0,
        "encoding": "raw",
    }
    return SlotInfo(**{**inputs, **fields})


@pytest.mark.parametrize(
    "good",
    [
        slot(),
        slot(byte_offset=92),
        slot(shape=(), byte_length=4),
        slot(shape=(0, 5), byte_length=0),
        slot(shape=(1,) * 32, byte_length=4),
        slot(dtype="bfloat16", byte_length=4),
        slot(dtype="<f4"),
        slot(dtype="bool", shape=(8,)),
        slot(dtype="uint8", shape=(480, 640, 3), byte_length=100, encoding="jpeg"),
        slot(dtype="uint16", shape=(480, 640), byte_length=100, encoding="png"),
    ],
)
def test_a_slot_that_fits_is_accepted(good: SlotInfo) -> None:
    validate_slots([good], 100)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (slot(byte_offset=93), "bytes 93 to 101 exceeds payload size 100"),
        (slot(byte_offset=-1), "exceeds payload size"),
        (slot(byte_length=-8), "exceeds payload size"),
        (slot(byte_offset=2**64 - 8, byte_length=2**64 - 8), "exceeds payload size"),
        (slot(byte_length=0), r"zero byte_length for shape \(2,\)"),
        (slot(shape=(), byte_length=0), "zero byte_length"),
        (slot(byte_length=7), r"byte_length 7 does not fit float32 of shape \(2,\), which takes 8"),
        (slot(shape=(-2,)), r"negative size in shape \(-2,\)"),
        (slot(shape=(-1, -2)), "negative size"),
        (slot(shape=(-1, 0), byte_length=0), "negative size"),
        (slot(shape=(2**62, 2**62)), "does not fit"),
        (slot(shape=(2**32, 2**32), byte_length=0), "zero byte_length"),
        (slot(shape=(0, 2**62, 2**62), byte_length=0), "no array has the shape"),
        (slot(shape=(1,) * 33, byte_length=4), "no array has the shape"),
        (slot(shape=(0,)), "does not fit"),
        (slot(dtype="complex64"), "No DType mapping"),
        (slot(dtype="what"), "No DType mapping for 'what'"),
        (slot(encoding="gif"), "Unknown encoding string 'gif'"),
        (slot(encoding="jpeg"), "JPEG cannot hold float32"),
        (slot(dtype="uint8", shape=(8,), encoding="png"), "PNG cannot hold uint8"),
        (slot(dtype="uint8", shape=(8, 0, 3), encoding="png"), "PNG cannot hold uint8"),
        (slot(dtype="uint8", shape=(8, 8, 3), byte_length=0, encoding="png"), "zero byte_length"),
    ],
)
def test_a_slot_that_does_not_fit_is_named_with_what_is_wrong(bad: SlotInfo, text: str) -> None:
    with pytest.raises(ObservationError, match=rf"tensor 'x': .*{text}"):
        validate_slots([slot(key="good"), bad], 100)


def test_no_slots_are_fine() -> None:
    validate_slots([], 0)


def test_the_error_carries_client_and_model() -> None:
    error = ObservationError("why", client_id="robot", model_id="policy", request_id=7, protocol_version=2)
    assert (str(error), error.reason) == ("why", "why")
    assert (error.client_id, error.model_id, error.request_id, error.protocol_version) == ("robot", "policy", 7, 2)


SIZES = st.one_of(st.integers(-3, 9), st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, -(2**63)]))
PLACES = st.one_of(st.integers(0, 80), st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]))


@given(
    dtype=st.sampled_from(["bool", "uint8", "int16", "float32", "float64", "bfloat16", "uint64"]),
    shape=st.lists(SIZES, max_size=4).map(tuple),
    byte_offset=PLACES,
    byte_length=PLACES,
    encoding=st.sampled_from(["raw", "raw", "raw", "jpeg", "png"]),
)
@example(dtype="uint8", shape=(0, 2**62, 2**62), byte_offset=0, byte_length=0, encoding="raw")
@example(dtype="float64", shape=(0, 2**62), byte_offset=0, byte_length=0, encoding="raw")
@example(dtype="float64", shape=(2**63 - 1, 0), byte_offset=64, byte_length=0, encoding="raw")
def test_what_passes_can_be_read_and_nothing_else_than_an_observation_error_comes_of_the_rest(
    dtype: str, shape: tuple[int, ...], byte_offset: int, byte_length: int, encoding: str
) -> None:
    inputs = slot(dtype=dtype, shape=shape, byte_offset=byte_offset, byte_length=byte_length, encoding=encoding)
    payload = np.arange(64, dtype=np.uint8).tobytes()
    try:
        validate_slots([inputs], len(payload))
        array = to_values([inputs], {}, payload)["x"]
    except ObservationError:
        return
    assert array.shape == shape
    assert array.nbytes == byte_length
    if byte_length:
        assert array.tobytes() == payload[byte_offset : byte_offset + byte_length]
