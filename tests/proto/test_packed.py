"""Arrays that stay packed are what a map of them is, to who looks and on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inferential.proto.messages import ResponseTiming, write_response
from inferential.proto.packed import PackedArrays, Packing
from inferential.proto.tensors import gather

_SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
_DTYPES = st.sampled_from(["float32", "float64", "uint8", "int16", "bool"])


@st.composite
def maps(draw: st.DrawFn) -> dict[str, Any]:
    """Arrays by key."""
    forms = draw(st.dictionaries(st.sampled_from(["actions", "action", "value", "mask"]), st.tuples(_DTYPES, _SHAPES)))
    return {key: (np.arange(np.prod(shape)) % 2).reshape(shape).astype(dtype) for key, (dtype, shape) in forms.items()}


def raw_of(values: dict[str, Any]) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
    """Key, dtype, shape and offset of each, at the next multiple of 8 bytes."""
    found, end = [], 0
    for key, value in values.items():
        offset = -(-end // 8) * 8
        found.append((key, value.dtype, value.shape, offset))
        end = offset + value.nbytes
    return found


def packed(values: dict[str, Any]) -> PackedArrays:
    """The same, packed."""
    packing, payload = Packing.of(raw_of(values)), gather(values)
    assert packing is not None
    assert packing.size == len(payload)
    return PackedArrays(packing, payload)


def written(values: Any) -> tuple[bytes, bytes]:
    """Envelope and payload of a response."""
    envelope, payload = write_response(
        client_id="robot",
        model_id="model",
        response_id="1",
        timestamp_ns=1,
        request_id=2,
        values=values,
        timing=ResponseTiming(1.0, 2.0, 3.0, 4),
    )
    return envelope, bytes(payload)


@given(maps())
def test_packed_arrays_are_read_and_written_as_a_map_of_them(values: dict[str, Any]) -> None:
    found = packed(values)
    assert len(found) == len(values)
    assert [*found] == [*values]
    for key, value in values.items():
        assert key in found
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)
    assert "other" not in found
    assert found.get("other") is None
    assert written(packed(values)) == written(values)


def test_arrays_that_lie_elsewhere_than_they_would_be_sent_are_not_packed() -> None:
    (first, second) = raw_of({"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)})
    assert Packing.of([first, second]) is not None
    assert Packing.of([first, (*second[:3], 4)]) is None
    assert Packing.of([second, first]) is None
    assert Packing.of([first, ("a", *second[1:])]) is None  # two of one key
