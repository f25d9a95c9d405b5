"""Arrays to a payload and back: right for every memory layout, and without needless copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inferential.proto import JPEG, Observation, Tensor, dtype_to_numpy
from inferential.proto.tensors import EncodedImage, gather, pack, pieces, view, whole

Array = np.ndarray[Any, Any]
NUMBERS = (*range(1, 9), *range(16, 21))
DTYPES = [dtype_to_numpy(number) for number in NUMBERS]
NAMES = [dtype.name for dtype in DTYPES]


def packed(**values: Any) -> tuple[list[Tensor], Any]:
    message = Observation()
    payload = pack(message.tensors, values)
    return list(message.tensors), payload


def unpacked(tensors: list[Tensor], payload: Any) -> dict[str, Array]:
    return {
        tensor.key: view(
            payload, dtype_to_numpy(tensor.dtype), tuple(tensor.shape), tensor.byte_offset, tensor.byte_length
        )
        for tensor in tensors
    }


def assert_same(got: Array, sent: Array) -> None:
    """Equal bit for bit, NaNs included, in the wire's byte order."""
    assert got.shape == sent.shape
    assert got.dtype.name == sent.dtype.name
    assert got.tobytes() == np.ascontiguousarray(sent.astype(got.dtype)).tobytes()


def some(dtype: np.dtype[Any], *shape: int) -> Array:
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 7).astype(dtype)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays of every dtype of the wire, in every memory layout that slicing, transposing and swapping make."""
    number = draw(st.sampled_from(NUMBERS))
    dtype = dtype_to_numpy(number)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    raw = draw(st.binary(min_size=0, max_size=64)) or b"\0"
    count = int(np.prod(shape, dtype=int))
    data = np.resize(np.frombuffer(raw, np.uint8), count * dtype.itemsize)
    if dtype.kind == "b":
        data = data % 2
    array: Array = data.view(dtype).reshape(shape)
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    if array.ndim and draw(st.booleans()):
        axis = draw(st.integers(0, array.ndim - 1))
        step = draw(st.sampled_from([-2, -1, 2, 3]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    if draw(st.booleans()):
        array = np.broadcast_to(array, (draw(st.integers(0, 3)), *array.shape))
    if draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    if draw(st.booleans()):
        array.setflags(write=False)
    return array


@settings(max_examples=300)
@given(values=st.dictionaries(st.sampled_from("abcdef"), arrays(), max_size=5))
def test_arrays_of_every_dtype_and_layout_come_out_as_they_went_in(values: dict[str, Array]) -> None:
    tensors, payload = packed(**values)
    got = unpacked(tensors, bytes(payload))
    assert got.keys() == values.keys()
    for key, sent in values.items():
        assert_same(got[key], sent)


@settings(max_examples=50)
@given(values=st.dictionaries(st.sampled_from("abcdef"), arrays(), min_size=2, max_size=5), size=st.integers(1, 3))
def test_they_do_so_too_where_they_are_gathered_into_one_array(values: dict[str, Array], size: int) -> None:
    values["large"] = np.arange(size * 16_384, dtype=np.uint8)  # beyond what is joined as byte strings
    tensors, payload = packed(**values)
    got = unpacked(tensors, bytes(payload))
    for key, sent in values.items():
        assert_same(got[key], sent)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "layout",
    [
        lambda a: a,
        np.asfortranarray,
        lambda a: a[:, ::2],
        lambda a: a[::-1, ::-1],
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: a[0, 0],
        lambda a: a[:0],
    ],
    ids=["C order", "Fortran order", "strided", "negative strides", "broadcast", "big-endian", "0-d", "empty"],
)
def test_a_single_array_of_any_layout_comes_out_as_it_went_in(name: str, layout: Callable[[Array], Array]) -> None:
    sent = np.asarray(layout(some(dtype_to_numpy(NUMBERS[NAMES.index(name)]), 4, 6)))
    tensors, payload = packed(x=sent)
    assert_same(unpacked(tensors, payload)["x"], sent)


def test_no_values_make_no_tensors_and_an_empty_payload() -> None:
    assert packed() == ([], b"")


def test_a_descriptor_has_key_dtype_shape_offset_and_time() -> None:
    message = Observation()
    pack(message.tensors, {"a": np.zeros((2, 3), np.float32), "b": np.uint8(7).reshape(())}, timestamp_ns=5)
    inputs = [
        (t.key, t.dtype, list(t.shape), t.byte_offset, t.byte_length, t.timestamp_ns, t.encoding)
        for t in message.tensors
    ]
    assert inputs == [("a", 2, [2, 3], 0, 24, 5, 1), ("b", 5, [], 24, 1, 5, 1)]


@pytest.mark.parametrize("length", [3, 20_000])
def test_every_tensor_begins_at_a_multiple_of_eight(length: int) -> None:
    tensors, payload = packed(
        a=np.ones(length, np.uint8), b=np.ones(3, np.uint8), c=np.ones(1, np.float64), d=np.zeros((0, 2), np.int16)
    )
    assert [tensor.byte_offset % 8 for tensor in tensors] == [0, 0, 0, 0]
    assert len(payload) == max(tensor.byte_offset + tensor.byte_length for tensor in tensors)


@pytest.mark.parametrize("length", [3, 20_000])
def test_the_gaps_between_tensors_are_zero(length: int) -> None:
    tensors, payload = packed(a=np.full(length, 255, np.uint8), b=np.full(5, 255, np.uint8), c=np.ones(1, np.uint8))
    left = np.frombuffer(bytes(payload), np.uint8).copy()
    for tensor in tensors:
        left[tensor.byte_offset : tensor.byte_offset + tensor.byte_length] = 0
    assert not left.any()


def test_a_read_only_array_is_not_copied() -> None:
    array = np.arange(1000.0)
    array.setflags(write=False)
    _, payload = packed(x=array)
    assert np.shares_memory(np.frombuffer(payload, np.uint8), array)
    assert len(payload) == array.nbytes


def test_so_is_a_view_of_one_and_one_on_immutable_bytes() -> None:
    whole = np.arange(1000.0)
    whole.setflags(write=False)
    for array in (whole[100:300], np.frombuffer(bytes(1600), np.float64)):
        _, payload = packed(x=array)
        assert np.shares_memory(np.frombuffer(payload, np.uint8), array)


@given(values=st.dictionaries(st.sampled_from("abcdef"), arrays(), max_size=5), size=st.sampled_from([1, 20_000]))
def test_in_pieces_they_are_the_bytes_that_they_are_in_one(values: dict[str, Array], size: int) -> None:
    tensors = {**values, "large": np.arange(size, dtype=np.uint8)}
    assert bytes(whole(pieces(tensors))) == bytes(gather(tensors))


def test_several_large_read_only_arrays_are_not_copied() -> None:
    left, right = np.zeros(100_000, np.uint8), np.ones((3, 50_000), np.float32)
    for array in (left, right):
        array.setflags(write=False)
    got = pieces({"left": left, "right": right})
    assert isinstance(got, list)
    for piece, array in zip(got, (left, right), strict=True):
        assert np.shares_memory(np.frombuffer(piece, np.uint8), array)


def test_a_writable_array_is_copied_at_once() -> None:
    array = np.arange(1000.0)
    tensors, payload = packed(x=array)
    array[:] = 0
    assert unpacked(tensors, payload)["x"][999] == 999.0


def test_so_is_a_read_only_view_of_memory_that_another_can_write() -> None:
    owner = np.arange(1000.0)
    array = owner[:]
    array.setflags(write=False)
    foreign = np.frombuffer(bytearray(8000), np.float64)
    foreign.setflags(write=False)
    for sent in (array, foreign):
        _, payload = packed(x=sent)
        assert not np.shares_memory(np.frombuffer(payload, np.uint8), sent)


@pytest.mark.parametrize("kind", [bytearray, bytes])
def test_a_received_array_is_a_view_on_its_frame_writable_where_the_frame_is(kind: type[Any]) -> None:
    tensors, payload = packed(a=np.arange(6, dtype=np.float32), b=np.arange(4, dtype=np.int64))
    frame = kind(payload)
    for array in unpacked(tensors, frame).values():
        assert np.shares_memory(array, np.frombuffer(frame, np.uint8))
        assert array.flags.writeable == (kind is bytearray)


def test_an_array_that_lies_askew_in_its_frame_is_copied_to_where_its_dtype_may_lie() -> None:
    frame = bytearray(b"\0" * 3 + np.arange(4.0).tobytes())
    array = view(frame, np.dtype("f8"), (4,), 3, 32)
    assert array.flags.aligned
    assert array.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_length_that_is_not_the_shapes_is_an_error() -> None:
    with pytest.raises(ValueError, match="8 bytes hold no float32 of shape"):
        view(bytes(8), np.dtype("f4"), (3,), 0, 8)
    with pytest.raises(ValueError, match="buffer"):
        view(bytes(8), np.dtype("f4"), (3,), 0, 12)


@pytest.mark.parametrize("array", [np.ones(2, complex), np.array([None]), np.array(["a"]), np.ones(1, "M8[ns]")])
def test_an_array_that_the_wire_cannot_carry_is_named_by_its_key(array: Array) -> None:
    with pytest.raises(ValueError, match=r"^joints: No DType mapping"):
        packed(ok=np.ones(1), joints=array)


@pytest.mark.parametrize("extra", [{}, {"other": np.zeros(2)}, {"large": np.zeros(20_000, np.uint8)}])
def test_a_masked_array_is_sent_as_its_plain_data_whatever_it_travels_with(extra: dict[str, Array]) -> None:
    masked = np.ma.masked_array(np.arange(4.0), mask=[0, 1, 0, 0])
    tensors, payload = packed(x=masked, **extra)
    assert unpacked(tensors, bytes(payload))["x"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_compressed_images_travel_as_the_bytes_of_their_file() -> None:
    image = EncodedImage(b"jpeg!", np.dtype("u1"), (2, 3, 3), JPEG)
    for size in (4, 20_000):
        tensors, payload = packed(before=np.ones(size, np.uint8), image=image, after=np.ones(2))
        inputs = tensors[1]
        assert (list(inputs.shape), inputs.encoding, inputs.byte_length) == ([2, 3, 3], JPEG, 5)
        assert bytes(payload)[inputs.byte_offset : inputs.byte_offset + 5] == b"jpeg!"
    assert packed(image=image)[1] == b"jpeg!"


def test_bfloat16_arrays_keep_every_bit_pattern() -> None:
    sent = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    tensors, payload = packed(x=sent)
    assert unpacked(tensors, bytes(payload))["x"].tobytes() == sent.tobytes()
