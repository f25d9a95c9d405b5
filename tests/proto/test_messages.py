"""Responses to frames and back."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.proto import PNG, PROTOCOL_VERSION, ModelResponse, Status, Tensor
from inferential.proto.cache.templates import signature_of
from inferential.proto.images import encode
from inferential.proto.messages import (
    ResponseTiming,
    content_of,
    read_response,
    split_values,
    write_refusal,
    write_response,
)

TIMING = ResponseTiming(queue_ms=1.0, inference_ms=2.0, server_ms=4.0, batch_size=3)


def written(**values: Any) -> tuple[bytes, Any]:
    return write_response(
        client_id="robot",
        model_id="policy",
        response_id="r1",
        timestamp_ns=5,
        request_id=7,
        values=values,
        timing=TIMING,
    )


def test_a_result_comes_out_as_it_went_in() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    response = read_response(*written(actions=np.ones((2, 3), np.float32), note="go", camera=encode(image, PNG)))
    assert (response.message.request_id, response.message.response_id, response.model_id) == (7, "r1", "policy")
    assert (response.message.status, response.message.reason) == (Status.OK, "")
    assert response.message.inference_latency_ms == 2.0
    assert response.timing == TIMING
    np.testing.assert_array_equal(response.values["actions"], np.ones((2, 3)))
    np.testing.assert_array_equal(response.values["camera"], image)
    assert response.values["note"] == "go"


def test_a_result_is_a_result_to_the_1_x_line() -> None:
    envelope, payload = written(actions=np.ones(2, np.float32))
    message = ModelResponse.FromString(envelope)
    assert (message.client.id, message.response_id, message.model_id, message.timestamp_ns) == (
        "robot",
        "r1",
        "policy",
        5,
    )
    assert message.inference_latency_ms == 2.0
    assert len(payload) == 8


def test_a_refusal_carries_status_reason_and_request() -> None:
    envelope = write_refusal(
        client_id="robot", model_id="policy", request_id=7, status="EXPIRED", reason="waited 5000 ms", cause="ttl"
    )
    message = ModelResponse.FromString(envelope)
    assert message.protocol_version == PROTOCOL_VERSION
    response = read_response(envelope, b"")
    assert (response.message.status, response.message.reason, response.message.request_id) == (
        Status.EXPIRED,
        "waited 5000 ms",
        7,
    )
    assert response.message.cause == "ttl"
    assert response.timing is None
    assert response.values == {}


def test_a_reason_that_is_not_valid_unicode_is_sent_nevertheless() -> None:
    # The name of a file with a byte that is no UTF-8, in the message of a model's OSError.
    envelope = write_refusal(
        client_id="robot", model_id="policy", request_id=7, status="MODEL_FAILED", reason="no file 'caf\udce9'"
    )
    assert ModelResponse.FromString(envelope).reason == "no file 'caf?'"


def test_a_text_that_is_no_valid_unicode_is_named_by_its_key() -> None:
    with pytest.raises(ValueError, match=r"^note: "):
        written(note="caf\udce9")
    with pytest.raises(ValueError, match=r"^caf.: "):
        written(**{"caf\udce9": "x"})
    with pytest.raises(ValueError, match=r"^caf.: "):
        written(**{"caf\udce9": np.zeros(1)})


def test_arrays_images_and_strings_are_separated() -> None:
    array, image = np.zeros(2), encode(np.zeros((2, 2), np.uint8), PNG)
    assert split_values({"a": array, "b": "text", "c": image}) == ({"a": array, "c": image}, {"b": "text"})


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1.0, "np.asarray"),
        ([1, 2], "np.asarray"),
        (None, "got NoneType"),
        (b"x", "got bytes"),
        (SimpleNamespace(__array__=np.zeros), "np.asarray"),  # as tensors of torch and images of PIL
    ],
)
def test_a_value_of_another_kind_is_named_by_its_key(value: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=rf"^joints: expected np\.ndarray .* or str .*{hint}"):
        split_values({"ok": np.zeros(1), "joints": value})


def lying(**inputs: Any) -> bytes:
    fields = {"key": "x", "dtype": 2, "shape": [2], "byte_length": 8, "encoding": 1, **inputs}
    message = ModelResponse(request_id=7)
    message.tensors.append(Tensor(**fields))
    return message.SerializeToString()


@pytest.mark.parametrize(
    "envelope",
    [
        b"\xff" * 9,
        lying(byte_offset=1),
        lying(byte_offset=2**64 - 1),
        lying(byte_length=2**64 - 1),
        lying(byte_length=2**63),
        lying(shape=[3]),
        lying(shape=[-2]),
        lying(shape=[-1]),
        lying(shape=[2**63 - 1, 2**63 - 1]),
        lying(shape=[0, 2**62, 2**62], byte_length=0),
        lying(dtype=99),
        lying(dtype=0),
        lying(shape=[2, 2, 9], encoding=2),
        lying(dtype=5, shape=[2, 2, 9], encoding=2),
        lying(dtype=5, shape=[], encoding=3),
        lying(dtype=5, shape=[2, 2], encoding=3, byte_offset=2**64 - 1),
        lying(shape=[1] * 65, byte_length=4),
    ],
)
def test_a_response_that_lies_is_a_value_error(envelope: bytes) -> None:
    with pytest.raises(ValueError):
        read_response(envelope, bytes(8))


@settings(max_examples=300)
@given(noise=st.binary(max_size=60), changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=5))
def test_random_bytes_are_a_response_or_a_value_error(noise: bytes, changes: list[tuple[int, int]]) -> None:
    envelope, payload = written(actions=np.ones((2, 3), np.float32), note="go", more=np.ones(2, np.int8))
    mutated = bytearray(envelope)
    for at, value in changes:
        mutated[at % len(mutated)] = value
    for given_envelope in (noise, mutated):
        with contextlib.suppress(ValueError):
            read_response(given_envelope, payload)


KINDS = {"array": np.zeros((2, 3)), "image": encode(np.zeros((2, 2), np.uint8), PNG), "text": "go"}


@given(st.dictionaries(st.text(max_size=3), st.sampled_from(sorted(KINDS)).map(KINDS.__getitem__)))
def test_values_are_sorted_as_they_are_split_and_signed(values: dict[str, Any]) -> None:
    tensors, metadata, signature = content_of(values)
    assert list(tensors) == [key for key, value in values.items() if not isinstance(value, str)]
    assert all(value is values[key] for key, value in tensors.items())
    assert metadata == {key: value for key, value in values.items() if isinstance(value, str)}
    assert signature == signature_of(tensors)
