"""Rows of calls and results mean at one end what they meant at the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inferential.observation.slots import SlotInfo
from inferential.proto import inferential_pb2 as pb
from inferential.proto.images import ImageError
from inferential.replica.outcomes import BY_MODEL, Refused
from inferential.replica.rows import Layout, RowReader, RowWriter, write_refusal

ARRAYS = hnp.arrays(
    dtype=st.sampled_from(["f4", "f8", "u1", "i8", "?", ">f4"]), shape=hnp.array_shapes(min_dims=0, max_dims=3)
)
VALUES = st.dictionaries(st.text("abc", min_size=1), ARRAYS | st.text("xyz"), max_size=4)


@given(values=VALUES)
def test_values_come_back_as_they_were(values: dict[str, Any]) -> None:
    writer, reader = RowWriter(), RowReader(pb.ModelResponse)
    for _ in range(2):  # the second time from what is remembered
        description, payload = writer.values(values)
        layout = reader.layout(description)
        assert isinstance(layout, Layout)
        found = layout.values(payload)
        assert found.keys() == values.keys()
        for key, value in values.items():
            np.testing.assert_array_equal(found[key], value)


def slot(key: str, offset: int, encoding: str = "raw") -> SlotInfo:
    return SlotInfo(key, "float32", (2,), offset, 8, 0, encoding)


def test_an_observation_is_described_once_for_the_same_slots() -> None:
    writer, reader = RowWriter(), RowReader(pb.Observation)
    slots = [slot("a", 0), slot("b", 8)]
    first = writer.observation(slots, {})
    assert writer.observation(slots, {}) is first
    payload = bytearray(np.arange(4, dtype=np.float32).tobytes())
    values = reader.layout(first).values(payload)  # type: ignore[union-attr]
    assert values["b"].tolist() == [2.0, 3.0]
    assert values["b"].flags.writeable
    assert reader.layout(first) is reader.layout(first)


def test_strings_of_an_observation_travel_with_its_description() -> None:
    writer, reader = RowWriter(), RowReader(pb.Observation)
    description = writer.observation([slot("a", 0)], {"prompt": "pick"})
    assert reader.layout(description).values(bytearray(8))["prompt"] == "pick"  # type: ignore[union-attr]


def test_a_broken_image_is_the_observations_fault() -> None:
    description = RowWriter().observation([SlotInfo("camera", "uint8", (4, 4, 3), 0, 8, 0, "png")], {})
    with pytest.raises(ImageError):
        RowReader(pb.Observation).layout(description).values(bytes(8))  # type: ignore[union-attr]


def test_a_payload_that_is_too_short_is_refused() -> None:
    layout = RowReader(pb.Observation).layout(RowWriter().observation([slot("a", 0)], {}))
    with pytest.raises(ValueError, match="a payload of 4 bytes, its tensors take 8"):
        layout.values(bytes(4))  # type: ignore[union-attr]


def test_a_refusal_has_a_status_and_a_reason() -> None:
    description = write_refusal("MODEL_FAILED", "ValueError: caf\udce9")
    assert RowReader(pb.ModelResponse).layout(description) == Refused("MODEL_FAILED", "ValueError: caf?")


def test_a_refusal_says_where_the_model_raised() -> None:
    description = write_refusal("MODEL_FAILED", "ValueError", " (caf\udce9.py:3)\nTraceback")
    layout = RowReader(pb.ModelResponse).layout(description)
    assert layout == Refused("MODEL_FAILED", "ValueError", " (caf?.py:3)\nTraceback")


def test_a_refusal_says_that_it_is_the_models_own() -> None:
    judged = write_refusal("INVALID_OBSERVATION", "too cold", cause=BY_MODEL)
    assert RowReader(pb.ModelResponse).layout(judged) == Refused("INVALID_OBSERVATION", "too cold", cause="model")


def test_what_is_no_description_is_refused() -> None:
    with pytest.raises(ValueError, match="no description of a row"):
        RowReader(pb.Observation).layout(b"\xff\xff\xff")
