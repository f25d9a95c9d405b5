"""The client's response cache and the slow path read the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.proto import JPEG, Client, ModelResponse, Status, Tensor
from inferential.proto.cache import CacheCounts
from inferential.proto.cache.response_reader import ResponseReader
from inferential.proto.images import encode
from inferential.proto.messages import Response, ResponseTiming, read_response, write_refusal, write_response

RESULTS: dict[str, dict[str, Any]] = {
    "actions": {"actions": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "nothing": {},
    "several": {"left": np.arange(3, dtype=np.uint8), "right": np.arange(4, dtype=np.float64), "note": "go"},
    "an image": {"image": encode(np.zeros((4, 4, 3), np.uint8), JPEG, 90), "state": np.zeros(2)},
}


def written(name: str = "actions", number: int = 1, model_id: str = "policy", version: str = "v1") -> tuple[bytes, Any]:
    return write_response(
        client_id="robot-1",
        model_id=model_id,
        response_id=f"response-{number}",
        timestamp_ns=1_800_000_000_000_000_000 + number,
        request_id=number,
        values=RESULTS[name],
        timing=ResponseTiming(0.25, float(number), 0.5, number),
        serve_interval_ms=float(number % 3),
        model_version=version,
        execution_horizon=number % 2,
    )


def same(found: Response, expected: Response) -> bool:
    assert (found.constant, found.message) == (expected.constant, expected.message)
    assert list(found.values) == list(expected.values)
    for key, value in expected.values.items():
        assert type(found.values[key]) is type(value)
        assert np.array_equal(found.values[key], value)
        if isinstance(value, np.ndarray):
            assert found.values[key].dtype == value.dtype
    return True


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(RESULTS)), st.integers(1, 9), st.sampled_from("mn"), st.sampled_from(["", "v"])
        ),
        max_size=12,
    )
)
def test_the_cache_and_the_slow_path_read_the_same(inputs: list[tuple[str, int, str, str]]) -> None:
    reader = ResponseReader()
    for name, number, model_id, version in inputs:
        envelope, payload = written(name, number, model_id, version)
        assert same(reader.read(envelope, payload), read_response(envelope, payload))


def test_the_second_response_of_a_form_is_read_from_the_cache() -> None:
    reader = ResponseReader()
    for name in ("actions", "several"):
        reader.read(*written(name))
    for name in ("actions", "several", "actions"):
        assert same(reader.read(*written(name, 2)), read_response(*written(name, 2)))
    assert reader.counts == CacheCounts(hits=3, misses=2)


def test_arrays_are_views_on_the_payload() -> None:
    reader = ResponseReader()
    for number in (1, 2):
        envelope, payload = written(number=number)
        frame = memoryview(bytearray(payload))
        actions = reader.read(envelope, frame).values["actions"]
        assert np.shares_memory(actions, np.frombuffer(frame, np.uint8))
        actions[0, 0] = 9.0  # as the frame can be written, so can they


def test_an_array_that_does_not_lie_where_its_dtype_must_is_a_copy() -> None:
    reader = ResponseReader()
    envelope, payload = written()
    for _ in range(2):
        actions = reader.read(envelope, memoryview(b"\0" + bytes(payload))[1:]).values["actions"]
        assert actions.flags.aligned
        assert np.array_equal(actions, RESULTS["actions"]["actions"])


def test_a_payload_that_is_too_short_is_an_error_each_time() -> None:
    reader = ResponseReader()
    envelope, payload = written()
    reader.read(envelope, payload)
    with pytest.raises(ValueError, match="of a buffer of 23"):
        reader.read(envelope, bytes(payload)[:-1])


@pytest.mark.parametrize(
    "added",
    [
        ModelResponse(model_id="another"),
        ModelResponse(model_version="another"),
        ModelResponse(tensors=[Tensor(key="more", dtype=2, shape=[1], byte_offset=0, byte_length=4)]),
        ModelResponse(status=Status.MODEL_FAILED, reason="broken"),
        ModelResponse(client=Client(id="another")),
        ModelResponse(metadata={"note": "stop"}),
    ],
    ids=lambda message: message.ListFields()[0][0].name,
)
def test_what_is_said_twice_counts_as_protobuf_has_it(added: ModelResponse) -> None:
    reader = ResponseReader()
    reader.read(*written())
    envelope, payload = written(number=2)
    envelope += added.SerializeToString()
    assert same(reader.read(envelope, payload), read_response(envelope, payload))


def test_bytes_that_are_no_response_are_an_error_also_after_a_known_beginning() -> None:
    reader = ResponseReader()
    envelope, payload = written()
    reader.read(envelope, payload)
    with pytest.raises(ValueError, match="not a response"):
        reader.read(envelope + b"\xff", payload)


def test_refusals_and_other_orders_of_fields_are_read_too() -> None:
    reader = ResponseReader()
    refusal = write_refusal(client_id="r", model_id="m", request_id=7, status="EXPIRED", reason="late")
    canonical = ModelResponse.FromString(written()[0]).SerializeToString()
    for envelope, payload in ((refusal, b""), (canonical, written()[1])):
        for _ in range(2):
            assert same(reader.read(envelope, payload), read_response(envelope, payload))


def test_the_second_refusal_of_a_model_is_read_from_the_cache() -> None:
    reader = ResponseReader()
    for number in (1, 2):
        refusal = write_refusal(client_id="r", model_id="m", request_id=number, status="EXPIRED", reason="late")
        assert same(reader.read(refusal, b""), read_response(refusal, b""))
    assert reader.counts == CacheCounts(hits=1, misses=1)
    result = written(model_id="m")
    assert same(reader.read(*result), read_response(*result))


def test_the_number_of_cached_parts_is_bounded() -> None:
    reader = ResponseReader()
    for number in range(100):
        reader.read(*written(model_id=f"model-{number}"))
    assert len(reader) == 4
