"""Envelopes from templates and envelopes that are serialized whole say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.session import Session
from inferential.proto import ModelResponse, Observation
from inferential.proto.cache import CacheCounts
from inferential.proto.cache.templates import ObservationTemplate, ObservationWriter, signature_of
from inferential.proto.messages import ResponseTiming, content_of, write_response
from inferential.proto.tensors import describe

NOW_NS = 1_790_000_000_000_000_000
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
arrays = st.builds(
    lambda shape, dtype: np.zeros(shape, dtype),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from(["float32", "float64", "uint8", "int64", "bool", ">f4"]),
)
values = st.dictionaries(keys, arrays | keys, max_size=4)
timestamps = st.integers(0, 2**64 - 1) | st.integers(NOW_NS, NOW_NS + 10**12)


def session() -> tuple[Session, Any]:
    made = Session("robot-1", "arm")
    handle = Handle("policy", 40.0, 2, "all", EncodingRules(None), control_rate_hz=50.0, late="refuse")
    return made, made.mailbox(handle)


@given(inputs=values, times=st.lists(timestamps, min_size=1, max_size=3), steps=st.none() | st.integers(0, 100))
def test_observations_say_the_same_each_time(inputs: dict[str, Any], times: list[int], steps: int | None) -> None:
    made, mailbox = session()
    for timestamp_ns in times:
        request_id, (_, envelope, payload) = made.observe(
            mailbox,
            content_of(inputs),
            {"urgency": 0.5, "steps_remaining": steps, "priority": None},
            now=0.0,
            timestamp_ns=timestamp_ns,
        )
        message = Observation.FromString(envelope)
        assert (message.request_id, message.timestamp_ns) == (request_id, timestamp_ns)
        assert (message.client.id, message.client.type, message.model_id) == ("robot-1", "arm", "policy")
        assert (message.priority, message.urgency, message.latency_budget_ms) == (2, 0.5, 40.0)
        assert (message.control_period_ms, message.late) == (20.0, 2)
        assert message.HasField("steps_remaining") == (steps is not None)
        tensors = {key: value for key, value in inputs.items() if isinstance(value, np.ndarray)}
        assert dict(message.metadata) == {key: value for key, value in inputs.items() if isinstance(value, str)}
        assert [tensor.key for tensor in message.tensors] == list(tensors)
        for tensor, value in zip(message.tensors, tensors.values(), strict=True):
            assert (tuple(tensor.shape), tensor.byte_length) == (value.shape, value.nbytes)
            assert tensor.timestamp_ns == timestamp_ns
            assert tensor.byte_offset + tensor.byte_length <= len(payload)


@given(inputs=values, version=keys)
def test_responses_say_the_same_each_time(inputs: dict[str, Any], version: str) -> None:
    for number in range(2):
        envelope, _ = write_response(
            client_id="robot-1",
            model_id="policy",
            response_id=f"r{number}",
            timestamp_ns=NOW_NS,
            request_id=number,
            values=inputs,
            timing=ResponseTiming(1.0, 2.0, 3.0, 4),
            serve_interval_ms=5.0,
            model_version=version,
        )
        message = ModelResponse.FromString(envelope)
        assert (message.response_id, message.request_id, message.timestamp_ns) == (f"r{number}", number, NOW_NS)
        assert (message.client.id, message.model_id, message.model_version) == ("robot-1", "policy", version)
        assert (message.timing.queue_ms, message.timing.batch_size, message.serve_interval_ms) == (1.0, 4, 5.0)
        assert dict(message.metadata) == {key: value for key, value in inputs.items() if isinstance(value, str)}
        assert [tuple(tensor.shape) for tensor in message.tensors] == [
            value.shape for value in inputs.values() if isinstance(value, np.ndarray)
        ]


def test_all_observations_of_a_form_but_the_first_come_from_a_template() -> None:
    made, mailbox = session()
    for number in range(5):
        for inputs in ({"state": np.zeros(2)}, {"state": np.zeros(3), "note": str(number)}):
            made.observe(mailbox, content_of(inputs), {"urgency": 0.1 * number}, now=0.0, timestamp_ns=NOW_NS + number)
    assert made.stats.template_cache == CacheCounts(hits=8, misses=2)


def test_an_envelope_from_a_template_says_what_the_message_written_whole_says() -> None:
    _, mailbox = session()
    whole, counts = Observation.FromString, [CacheCounts(), CacheCounts()]
    writers = [ObservationWriter(mailbox.handle.constant_fields("robot-1", "arm"), count) for count in counts]
    content = content_of({"state": np.zeros(2, np.float32), "image": np.zeros((2, 2, 3), np.uint8)})
    for number in range(3):
        varying = {"timestamp_ns": NOW_NS + number, "request_id": number, "urgency": 0.5, "metadata": {"a": "b"}}
        from_template, payload = writers[0].write(Observation(**varying), NOW_NS + number, content[0], content[2])
        serialized, same = writers[1].write(Observation(**varying), NOW_NS + number, content[0], None)
        assert (whole(from_template), payload) == (whole(serialized), same)
    assert [count.hits for count in counts] == [2, 0]


def test_without_a_timestamp_that_is_unique_there_is_no_template() -> None:
    message = Observation(model_id="m")
    signature = signature_of({"state": np.zeros(2)})
    assert signature is not None
    describe(message.tensors, signature, NOW_NS)
    new = Observation(timestamp_ns=NOW_NS + 1).SerializeToString()
    assert ObservationTemplate(message, NOW_NS).envelope(NOW_NS + 1, new) is not None
    message.timestamp_ns = NOW_NS  # the same nine bytes once more than there are tensors
    assert ObservationTemplate(message, NOW_NS).envelope(NOW_NS + 1, new) is None


@pytest.mark.parametrize("size", [2_000, 1_000_000])
def test_a_read_only_array_is_sent_from_its_own_memory(size: int) -> None:
    made, mailbox = session()
    array = np.zeros(size, np.uint8)
    array.setflags(write=False)
    _, (_, _, payload) = made.observe(mailbox, content_of({"image": array}), {}, now=0.0, timestamp_ns=NOW_NS)
    assert np.shares_memory(np.frombuffer(payload, np.uint8), array)
