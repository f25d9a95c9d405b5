"""Request ids of observations that are superseded unread, taken from their envelopes without parsing them."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferential.proto import FLOAT32, PROTOCOL_VERSION, RAW, Observation
from inferential.proto.cache.envelopes import EnvelopeCache
from inferential.proto.cache.templates import request_id_field
from inferential.proto.fields import read_constant

_STAMP_NS = time.time_ns()


def observation(request_id: int, *, later_ns: int = 0, tensors: int = 1, model_id: str = "m", **varying: int) -> bytes:
    """The envelope of an observation as the robot SDK writes it: the constant part, and what varies behind it."""
    at = _STAMP_NS + later_ns
    constant = Observation(model_id=model_id, protocol_version=PROTOCOL_VERSION)
    constant.client.id = "arm"
    for number in range(tensors):
        tensor = constant.tensors.add(key=f"state {number}", dtype=FLOAT32, byte_length=4, encoding=RAW)
        tensor.shape.append(1)
        tensor.byte_offset, tensor.timestamp_ns = 4 * number, at
    rest = Observation(timestamp_ns=at, request_id=request_id, **varying)
    return constant.SerializeToString() + rest.SerializeToString()


def ids(older: list[bytes], newest: bytes, request_id: int) -> list[bytes | None]:
    """What the cache says of the older ones."""
    cache: EnvelopeCache[None] = EnvelopeCache()
    message = Observation.FromString(newest)
    cached = cache.add(newest, message, read_constant(message), [None] * len(message.tensors))
    assert cached is not None
    return cached.request_ids_of(older, newest, request_id)


@pytest.mark.parametrize("tensors", [1, 3])
@given(number=st.integers(0, 2**64 - 1), others=st.lists(st.integers(0, 2**64 - 1), max_size=4))
@example(number=2**62 + 5, others=[2**62 + 4, 2**62 + 3, 5, 0])
@example(number=128, others=[127, 126])
@example(number=0, others=[0, 7])
def test_the_ids_are_those_that_protobuf_reads(tensors: int, number: int, others: list[int]) -> None:
    older = [observation(one, later_ns=-1 - at, tensors=tensors) for at, one in enumerate(others)]
    found = ids(older, observation(number, tensors=tensors), number)
    assert found == [request_id_field(Observation.FromString(one).request_id) for one in older]


@pytest.mark.parametrize(
    ("older", "newest"), [({"priority": 3}, {}), ({}, {"priority": 3}), ({"priority": 300}, {"priority": 3})]
)
def test_an_id_is_found_wherever_other_fields_move_it(older: dict[str, int], newest: dict[str, int]) -> None:
    sent, last = observation(6, **older), observation(7, **newest)
    assert ids([sent], last, 7) == [request_id_field(6)]


def test_what_has_another_constant_part_or_is_cut_has_none() -> None:
    sent = observation(2**62)
    others = [observation(2**62, model_id="n"), sent[:-1], sent[:-9], sent[:20], b""]
    assert ids(others, observation(2**62 + 1), 2**62 + 1)[0] is None
    for cut, field in zip(others[1:], ids(others[1:], observation(2**62 + 1), 2**62 + 1), strict=True):
        assert field in (None, b"", request_id_field(Observation.FromString(sent).request_id)), cut
        assert field != request_id_field(2**62)


def test_bytes_in_the_place_of_an_id_that_are_no_number_are_read_as_protobuf_reads_them() -> None:
    newest = observation(2**62 + 1)
    field = request_id_field(2**62 + 1)
    for broken in (b"\x80\x01" + b"\x80" * 9, b"\x80\x01\x01" + b"\x80" * 8):
        sent = newest.replace(field, broken)
        assert ids([sent], newest, 2**62 + 1) == [None]
