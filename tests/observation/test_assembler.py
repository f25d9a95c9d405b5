"""Observations from outside: the fields of a valid one, and every reason to refuse one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferential.config import ObservationConfig
from inferential.notices import MAX_LINES
from inferential.observation import DecodedObservation, ObservationAssembler, ObservationError, SlotInfo
from inferential.proto import (
    BFLOAT16,
    BOOL,
    JPEG,
    PNG,
    QUEUE_ALL,
    UINT8,
    Client,
    Observation,
    Tensor,
)

Decode = Callable[..., DecodedObservation]
MakeTensor = Callable[..., Tensor]
MakeObservation = Callable[..., Observation]


def test_a_good_observation_is_read_whole(
    decode: Decode, observation: MakeObservation, tensor: MakeTensor, now_ns: int
) -> None:
    message = observation(
        tensor(timestamp_ns=now_ns),
        tensor(key="image", dtype=UINT8, shape=[4, 4, 3], byte_offset=8, byte_length=20, encoding=JPEG),
        timestamp_ns=now_ns - 5_000_000,
        urgency=0.25,
        steps_remaining=0,
        priority=3,
        latency_budget_ms=20.0,
        queue=QUEUE_ALL,
        metadata={"prompt": "pick"},
    )
    payload = bytes(28)
    got = decode(message, payload)
    assert (got.client_id, got.client_type, got.model_id) == ("robot", "arm", "policy")
    assert (got.timestamp_ns, got.staleness_ms, got.received_at) == (now_ns - 5_000_000, 5.0, 12.5)
    assert (got.urgency, got.priority, got.steps_remaining, got.latency_budget_ms) == (0.25, 3, 0, 20.0)
    assert (got.request_id, got.protocol_version, got.queue) == (7, 2, QUEUE_ALL)
    assert got.metadata == {"prompt": "pick"}
    assert got.slots == [
        SlotInfo("x", "float32", (2,), 0, 8, now_ns, "raw"),
        SlotInfo("image", "uint8", (4, 4, 3), 8, 20, 0, "jpeg"),
    ]
    assert got.payload is payload


def test_what_a_1_x_client_does_not_send_differs_from_zero(decode: Decode, observation: MakeObservation) -> None:
    got = decode(observation(request_id=0, protocol_version=0, client_type=""), b"")
    assert got.steps_remaining is None
    assert got.latency_budget_ms is None
    assert (got.request_id, got.protocol_version, got.queue, got.staleness_ms) == (0, 0, 0, 0.0)


def test_a_tensor_without_an_encoding_is_raw(decode: Decode, observation: MakeObservation, tensor: MakeTensor) -> None:
    assert decode(observation(tensor(encoding=0))).slots[0].encoding == "raw"


@pytest.mark.parametrize(("inputs", "taken"), [(-3.0, 0.0), (0.5, 0.5), (7.0, 1.0)])
def test_urgency_is_held_between_0_and_1(inputs: float, taken: float, decode: Decode, observation: Any) -> None:
    assert decode(observation(urgency=inputs), b"").urgency == taken


def test_frames_may_be_any_buffer(observation: MakeObservation, tensor: MakeTensor) -> None:
    envelope = observation(tensor()).SerializeToString()
    assembler = ObservationAssembler(ObservationConfig())
    for kind in (bytes, bytearray, memoryview):
        assert assembler.decode(kind(envelope), kind(bytes(8)), 0.0).client_id == "robot"


CONTRACT_TEXTS = [
    (b"\xff\xff\xff", "Failed to decode"),
    (b"", "Missing client"),
    (Observation(client=Client(type="arm"), model_id="policy"), "Missing client"),
    (Observation(client=Client(id="robot")), "Missing model_id"),
    (
        Observation(
            client=Client(id="robot"), model_id="policy", tensors=[Tensor(key="x", dtype=2, shape=[3], byte_length=12)]
        ),
        "exceeds payload size",
    ),
    (
        Observation(client=Client(id="robot"), model_id="policy", tensors=[Tensor(key="x", dtype=2, shape=[3])]),
        "zero byte_length",
    ),
]


@pytest.mark.parametrize(("message", "text"), CONTRACT_TEXTS, ids=[text for _, text in CONTRACT_TEXTS])
def test_the_errors_of_the_contract_keep_their_words(message: Any, text: str, decode: Decode) -> None:
    with pytest.raises(ObservationError, match=text):
        decode(message)


TENSOR_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "a negative size": ({"shape": [-2]}, "negative size"),
    "two negative sizes": ({"shape": [-1, -2]}, "negative size"),
    "a shape that overflows": ({"shape": [2**62, 2**62]}, "does not fit"),
    "a shape that overflows to the right length": ({"shape": [2**32 + 1, 2**32, 2]}, "does not fit"),
    "an empty shape that numpy cannot hold": ({"shape": [0, 2**62, 2**62], "byte_length": 0}, "shape"),
    "a length that is not the shape's": ({"shape": [3]}, "does not fit"),
    "an offset near 2**63": ({"byte_offset": 2**63 - 1}, "exceeds payload size"),
    "an offset of 2**63": ({"byte_offset": 2**63}, "exceeds payload size"),
    "an offset near 2**64": ({"byte_offset": 2**64 - 1}, "exceeds payload size"),
    "a length near 2**63": ({"byte_length": 2**63 - 1}, "exceeds payload size"),
    "a length near 2**64": ({"byte_length": 2**64 - 1}, "exceeds payload size"),
    "both near 2**64": ({"byte_offset": 2**64 - 8, "byte_length": 2**64 - 8}, "exceeds payload size"),
    "a sum of 2**64": ({"byte_offset": 2**64 - 8, "byte_length": 8}, "exceeds payload size"),
    "no dtype": ({"dtype": 0}, "Unknown DType 0"),
    "an unknown dtype": ({"dtype": 99}, "Unknown DType 99"),
    "a negative dtype": ({"dtype": -1}, "Unknown DType -1"),
    "an unknown encoding": ({"encoding": 99}, "Unknown Encoding 99"),
    "too many dimensions": ({"shape": [1] * 17}, "17 dimensions, observations.max_dims is 16"),
    "a key that is too long": ({"key": "k" * 256}, "tensor key: 256 bytes, observations.max_id_bytes is 255"),
    "a key too long in bytes": ({"key": "ü" * 128}, "tensor key: 256 bytes"),
    "a key that cannot be printed": ({"key": "a\nb"}, r"tensor key: expected printable text, got 'a\\nb'"),
    "a JPEG of floats": ({"encoding": JPEG}, "JPEG cannot hold float32"),
    "a PNG of one dimension": ({"dtype": UINT8, "shape": [8], "encoding": PNG}, "PNG cannot hold uint8"),
    "a bomb": ({"dtype": UINT8, "shape": [50_000, 50_000, 3], "encoding": PNG}, "decodes to 7500000000 bytes, obs"),
    "a bomb beyond 2**64": ({"dtype": UINT8, "shape": [2**62, 2**62, 3], "encoding": PNG}, "max_decoded_bytes"),
}


@pytest.mark.parametrize(("fields", "text"), TENSOR_LIES.values(), ids=list(TENSOR_LIES))
def test_a_tensor_that_lies_is_refused_by_name(
    fields: dict[str, Any], text: str, decode: Decode, observation: Any, tensor: MakeTensor
) -> None:
    with pytest.raises(ObservationError, match=text) as raised:
        decode(observation(tensor(key="good"), tensor(**fields)))
    assert "tensor" in raised.value.reason


FIELD_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "a client id that is too long": ({"client": "c" * 256}, "client.id: 256 bytes, observations.max_id_bytes is 255"),
    "a client id too long in bytes": ({"client": "ü" * 128}, "client.id: 256 bytes"),
    "a client id with a zero byte": ({"client": "a\0b"}, r"client.id: expected printable text, got 'a\\x00b'"),
    "a client id with a line end": ({"client": "a\nb"}, "client.id: expected printable text"),
    "a client id that turns text around": ({"client": "a\u202eb"}, "client.id: expected printable text"),
    "a client type that is too long": ({"client_type": "t" * 256}, "client.type: 256 bytes"),
    "a client type with an escape": ({"client_type": "\x1b[31m"}, "client.type: expected printable text"),
    "a model id that is too long": ({"model_id": "m" * 256}, "model_id: 256 bytes"),
    "a model id with a tab": ({"model_id": "m\t"}, "model_id: expected printable text"),
    "NaN urgency": ({"urgency": float("nan")}, "urgency: expected a number from 0 to 1, got nan"),
    "infinite urgency": ({"urgency": float("inf")}, "urgency: .* got inf"),
    "minus infinite urgency": ({"urgency": float("-inf")}, "urgency: .* got -inf"),
    "a NaN budget": ({"latency_budget_ms": float("nan")}, "latency_budget_ms: expected a number above 0, got nan"),
    "an infinite budget": ({"latency_budget_ms": float("inf")}, "latency_budget_ms: .* got inf"),
    "a negative budget": ({"latency_budget_ms": -1.0}, "latency_budget_ms: .* got -1"),
    "too many strings": ({"metadata": {str(n): "" for n in range(65)}}, "metadata: 65 entries, .*max_metadata_entries"),
    "too much text": ({"metadata": {"a": "x" * 65_536}}, "metadata: 65537 bytes, .*max_metadata_bytes is 65536"),
    "text too long in bytes": ({"metadata": {"a": "ü" * 32_768}}, "metadata: 65537 bytes"),
}


@pytest.mark.parametrize(("fields", "text"), FIELD_LIES.values(), ids=list(FIELD_LIES))
def test_a_field_out_of_range_is_refused_by_name(
    fields: dict[str, Any], text: str, decode: Decode, observation: MakeObservation
) -> None:
    with pytest.raises(ObservationError, match=text):
        decode(observation(**fields), b"")


@pytest.mark.parametrize("ahead_ns", [60_000_000_001, 120_000_000_000, 3_600_000_000_000, None])
def test_a_robot_whose_clock_is_wrong_is_served_as_if_it_gave_no_time_and_counted_and_said_once(
    ahead_ns: int | None, observation: MakeObservation, tensor: MakeTensor, now_ns: int, caplog: Any
) -> None:
    assembler = ObservationAssembler(ObservationConfig())
    stamp = 2**64 - 1 if ahead_ns is None else now_ns + ahead_ns  # a time before 1970 has no other form
    envelope = observation(tensor(timestamp_ns=stamp), timestamp_ns=stamp).SerializeToString()
    for count in range(1, 4):
        decoded = assembler.decode(envelope, bytes(8), 0.0)
        assert (decoded.staleness_ms, [slot.timestamp_ns for slot in decoded.slots]) == (0.0, [0])
        assert assembler.clocks_off == count
    assert [message.startswith("client robot: its clock is ") for message in caplog.messages] == [True]


@pytest.mark.parametrize("stamp_ns", [1, 2**40, None])
def test_of_a_robot_whose_clock_began_anew_no_observation_counts_as_years_old(
    stamp_ns: int | None, observation: MakeObservation, now_ns: int, caplog: Any
) -> None:
    assembler = ObservationAssembler(ObservationConfig())
    envelope = observation(timestamp_ns=stamp_ns or now_ns - 86_401 * 10**9).SerializeToString()
    for count in range(1, 4):
        assert assembler.decode(envelope, b"", 0.0).staleness_ms == 0.0
        assert assembler.clocks_off == count
    assert [" behind the server's" in message for message in caplog.messages] == [True]


def test_a_timestamp_may_lie_in_the_future_by_the_limit(observation: MakeObservation, now_ns: int) -> None:
    assembler = ObservationAssembler(ObservationConfig())
    envelope = observation(timestamp_ns=now_ns + 60_000_000_000).SerializeToString()
    assert assembler.decode(envelope, b"", 0.0).staleness_ms == 0.0
    assert assembler.clocks_off == 0


def test_two_tensors_of_one_key_are_refused(decode: Decode, observation: Any, tensor: MakeTensor) -> None:
    with pytest.raises(ObservationError, match="tensor 'x': there are two of that key"):
        decode(observation(tensor(), tensor()))


def test_a_tensor_and_a_string_of_one_key_are_refused(decode: Decode, observation: Any, tensor: MakeTensor) -> None:
    with pytest.raises(ObservationError, match="tensor 'x': there is a string of that key too"):
        decode(observation(tensor(), metadata={"x": "text"}))


def test_too_many_tensors_are_refused(decode: Decode, observation: Any, tensor: MakeTensor) -> None:
    tensors = [tensor(key=str(n)) for n in range(65)]
    decode(observation(*tensors[:64]))
    with pytest.raises(ObservationError, match=r"tensors: 65 of them, observations.max_tensors is 64"):
        decode(observation(*tensors))


def test_a_payload_that_is_too_large_is_refused(decode: Decode, observation: MakeObservation) -> None:
    with pytest.raises(ObservationError, match=r"payload: 9 bytes, observations.max_payload_bytes is 8"):
        decode(observation(), bytes(9), max_payload_bytes=8)


@pytest.mark.parametrize(("size", "request_id"), [(262_144, 5), (16_777_216, 0)])
def test_of_an_envelope_that_no_limit_allows_is_read_who_sent_it_at_most(
    size: int, request_id: int, decode: Decode, observation: MakeObservation
) -> None:
    envelope = observation(request_id=5).SerializeToString()
    unknown = b"\xfa\x07" + bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21))
    with pytest.raises(
        ObservationError, match=r"Failed to decode the envelope: \d+ bytes, the limits allow \d+"
    ) as raised:
        decode(envelope + unknown + bytes(size))
    assert raised.value.request_id == request_id


def test_unknown_fields_are_skipped(decode: Decode, observation: MakeObservation) -> None:
    assert decode(observation().SerializeToString() + b"\xfa\x07\x03new").client_id == "robot"


def test_an_observation_at_every_limit_at_once_is_accepted(decode: Decode, tensor: MakeTensor) -> None:
    for limits in ({}, {"max_id_bytes": 2000, "max_dims": 32, "max_tensors": 100, "max_metadata_entries": 200}):
        config = ObservationConfig(**limits)
        name = "n" * config.max_id_bytes
        tensors = [
            tensor(
                key=str(n).rjust(config.max_id_bytes, "k"),
                shape=[1] * (config.max_dims - 1) + [2],
                byte_offset=(1 << 27) + n,
                timestamp_ns=1_700_000_000_000_000_000,
            )
            for n in range(config.max_tensors)
        ]
        share = config.max_metadata_bytes // config.max_metadata_entries
        message = Observation(
            client=Client(id=name, type=name),
            model_id=name,
            tensors=tensors,
            metadata={str(n).rjust(share - 1, "m"): "v" for n in range(config.max_metadata_entries)},
        )
        got = decode(message, memoryview(bytearray((1 << 27) + 1000)), **limits)
        assert len(got.slots) == config.max_tensors
        assert len(got.metadata) == config.max_metadata_entries


def test_an_error_carries_client_and_model_as_far_as_they_can_be_read(decode: Decode, observation: Any) -> None:
    with pytest.raises(ObservationError) as raised:
        decode(observation(urgency=float("nan"), request_id=2**64 - 1))
    error = raised.value
    assert (error.client_id, error.model_id, error.request_id) == ("robot", "policy", 2**64 - 1)
    assert error.protocol_version == 2
    with pytest.raises(ObservationError) as raised:
        decode(b"\xff\xff")
    assert (raised.value.client_id, raised.value.request_id, raised.value.protocol_version) == ("", 0, 0)


def test_bfloat16_and_bool_are_known_by_name(decode: Decode, observation: Any, tensor: MakeTensor) -> None:
    got = decode(observation(tensor(dtype=BFLOAT16, shape=[4]), tensor(key="y", dtype=BOOL, shape=[2, 4])))
    assert [slot.dtype for slot in got.slots] == ["bfloat16", "bool"]


def test_a_stale_observation_is_served_and_logged_once_for_each_client(
    observation: MakeObservation, now_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    assembler = ObservationAssembler(ObservationConfig())
    with caplog.at_level(logging.WARNING, "inferential.observation"):
        for client in ("a", "a", "b"):
            envelope = observation(client=client, timestamp_ns=now_ns - 2_000_000_000).SerializeToString()
            assert assembler.decode(envelope, b"", 0.0).staleness_ms == 2000.0
    assert [message.split(":")[0] for message in caplog.messages] == ["client a", "client b"]
    assert "2000 ms old" in caplog.text


def test_tensors_that_lie_far_apart_in_time_are_served_and_logged_once(
    observation: MakeObservation, tensor: MakeTensor, now_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    assembler = ObservationAssembler(ObservationConfig())
    message = observation(
        tensor(timestamp_ns=now_ns), tensor(key="y", timestamp_ns=now_ns - 21_000_000), tensor(key="z")
    )
    with caplog.at_level(logging.WARNING, "inferential.observation"):
        for _ in range(2):
            assembler.decode(message.SerializeToString(), bytes(8), 0.0)
    assert [record.getMessage() for record in caplog.records] == [
        "client robot: tensors of one observation were measured 21 ms apart"
    ]


def test_a_thousand_clients_with_old_observations_do_not_fill_the_log(
    observation: MakeObservation, now_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    assembler = ObservationAssembler(ObservationConfig())
    for client in (f"robot-{n}" for n in range(1000)):
        message = observation(client=client, timestamp_ns=now_ns - 2_000_000_000)
        assembler.decode(message.SerializeToString(), b"", 0.0)
    assert len(caplog.messages) == MAX_LINES


@settings(max_examples=300)
@given(envelope=st.binary(max_size=300), payload=st.binary(max_size=64))
def test_random_bytes_are_an_observation_or_an_observation_error(envelope: bytes, payload: bytes) -> None:
    assembler = ObservationAssembler(ObservationConfig())
    try:
        assembler.decode(envelope, payload, 0.0)
    except ObservationError:
        return


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 400),
    inserted=st.binary(max_size=8),
    payload=st.binary(max_size=32),
)
def test_a_mutated_observation_is_an_observation_or_an_observation_error(
    changes: list[tuple[int, int]], cut: int, inserted: bytes, payload: bytes, observation: Any, tensor: MakeTensor
) -> None:
    message = observation(
        tensor(timestamp_ns=5),
        tensor(key="image", dtype=UINT8, shape=[4, 4, 3], byte_length=8, encoding=JPEG),
        timestamp_ns=1_700_000_000_000_000_000,
        urgency=0.5,
        steps_remaining=3,
        latency_budget_ms=20.0,
        metadata={"prompt": "pick"},
    )
    data = bytearray(message.SerializeToString())
    for at, value in changes:
        data[at % len(data)] = value
    data[cut % len(data) : cut % len(data)] = inserted
    assembler = ObservationAssembler(ObservationConfig())
    try:
        got = assembler.decode(data, payload, 0.0)
    except ObservationError:
        return
    assert got.client_id
    assert got.model_id
    assert 0.0 <= got.urgency <= 1.0
    for slot in got.slots:
        assert slot.byte_offset + slot.byte_length <= len(payload)
