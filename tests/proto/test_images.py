"""JPEG and PNG tensors: round trips, and files that do not match their tensors."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.proto import JPEG, PNG, Encoding
from inferential.proto.images import ImageError, check_shape, decode, encode

U8 = np.dtype(np.uint8)
U16 = np.dtype(np.uint16)
Array = np.ndarray[Any, Any]


def noise(*shape: int, dtype: Any = np.uint8) -> Array:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def gradient(*shape: int) -> Array:
    """A smooth image, which JPEG keeps nearly as it is."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    plane = (rows * 2 + columns) % 256 if len(shape) == 2 else np.stack([rows, columns, rows + columns], axis=-1)
    return np.clip(plane[..., : shape[2]] if len(shape) == 3 else plane, 0, 255).astype(np.uint8)


def file_of(array: Array, encoding: Encoding = PNG) -> bytes:
    return encode(array, encoding).data


PNG_SHAPES = [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4), (1, 1), (1, 1, 3)]


@pytest.mark.parametrize("shape", PNG_SHAPES)
def test_a_png_of_uint8_comes_out_as_it_went_in(shape: tuple[int, ...]) -> None:
    sent = noise(*shape)
    image = encode(sent, PNG)
    assert (image.dtype, image.shape, image.encoding) == (U8, shape, PNG)
    got = decode(image.data, PNG, U8, shape)
    assert got.dtype == U8
    np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_a_png_of_uint16_depth_comes_out_as_it_went_in(dtype: str) -> None:
    sent = noise(5, 7, dtype=np.uint16).astype(dtype)
    np.testing.assert_array_equal(decode(file_of(sent), PNG, U16, (5, 7)), sent)


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64), (48, 64, 1)])
def test_a_jpeg_comes_out_nearly_as_it_went_in(shape: tuple[int, ...]) -> None:
    sent = gradient(*shape)
    got = decode(file_of(sent, JPEG), JPEG, U8, shape)
    assert got.shape == shape
    assert np.abs(got.astype(int) - sent).max() <= 8
    assert np.abs(got.astype(int) - sent).mean() < 1.5


def test_red_stays_red() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    for encoding in (JPEG, PNG):
        got = decode(file_of(red, encoding), encoding, U8, red.shape)
        assert (got[8, 8].astype(int) - [255, 0, 0]).max() <= 4


def test_a_lower_quality_makes_a_smaller_jpeg() -> None:
    image = noise(64, 64, 3)
    assert len(encode(image, JPEG, 20).data) < len(encode(image, JPEG, 90).data) / 2


@pytest.mark.parametrize(
    "layout",
    [np.asfortranarray, lambda a: a[::-1, ::-1], lambda a: a[:, ::2], lambda a: np.broadcast_to(a[:1], a.shape)],
)
def test_the_memory_order_of_an_image_does_not_matter(layout: Any) -> None:
    sent = layout(noise(6, 8, 3))
    np.testing.assert_array_equal(decode(file_of(sent), PNG, U8, sent.shape), sent)


def test_a_decoded_image_can_be_written_to() -> None:
    got = decode(file_of(noise(4, 4, 3)), PNG, U8, (4, 4, 3))
    got[:] = 0


def test_images_are_read_from_any_buffer() -> None:
    sent = noise(4, 4, 3)
    data = b"before" + file_of(sent) + b"after"
    for kind in (bytes, bytearray, memoryview):
        np.testing.assert_array_equal(decode(memoryview(kind(data))[6:-5], PNG, U8, sent.shape), sent)


@pytest.mark.parametrize(
    ("encoding", "dtype", "shape"),
    [
        (JPEG, "float32", (4, 4, 3)),
        (JPEG, "uint16", (4, 4)),
        (JPEG, "uint8", (4, 4, 4)),
        (JPEG, "uint8", (4, 4, 2)),
        (JPEG, "uint8", (16,)),
        (JPEG, "uint8", ()),
        (JPEG, "uint8", (0, 4, 3)),
        (JPEG, "uint8", (2, 4, 4, 3)),
        (JPEG, "bool", (4, 4)),
        (PNG, "uint8", (4, 4, 5)),
        (PNG, "uint8", (4, 4, 0)),
        (PNG, "uint16", (4, 4, 3)),
        (PNG, "uint16", (4, 4, 1)),
        (PNG, ">u2", (4, 4, 1)),
        (PNG, "int8", (4, 4)),
        (PNG, "uint32", (4, 4)),
    ],
)
def test_an_array_that_the_format_cannot_hold_is_refused(
    encoding: Encoding, dtype: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ImageError, match=r"cannot hold .* of shape"):
        check_shape(encoding, np.dtype(dtype), shape)
    with pytest.raises(ImageError, match=r"cannot hold .* of shape"):
        encode(np.zeros(shape, dtype), encoding)


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1)])
def test_an_image_wider_than_jpeg_can_say_is_an_image_error(shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="JPEG"):
        encode(np.zeros(shape, np.uint8), JPEG)


class Decoding:
    """Says whether pixels were decoded."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture
def decoding() -> Any:
    """Counts the images whose pixels Pillow decodes."""
    inputs = Decoding()
    load = PIL.ImageFile.ImageFile.load

    def counted(image: Any, *args: Any) -> Any:
        inputs.count += 1
        return load(image, *args)

    with patch.object(PIL.ImageFile.ImageFile, "load", counted):
        yield inputs


def png_saying(width: int, height: int, *, bits: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG file whose header says that size, whatever its data holds."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(data, 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_the_count_of_decoded_images_counts(decoding: Decoding) -> None:
    decode(png_saying(4, 2, data=(b"\0" + bytes(12)) * 2), PNG, U8, (2, 4, 3))
    assert decoding.count > 0


@pytest.mark.parametrize(
    ("data", "shape", "text"),
    [
        (png_saying(50_000, 50_000), (8, 8, 3), "PNG"),
        (png_saying(9_000, 9_000), (8, 8, 3), r"the PNG is 9000 x 9000, its tensor says \(8, 8\)"),
        (
            png_saying(8, 8, data=bytes(1000)),
            (50_000, 50_000, 3),
            r"the PNG is 8 x 8, its tensor says \(50000, 50000\)",
        ),
        (png_saying(8, 4), (8, 4, 3), "the PNG is 4 x 8"),
        (file_of(noise(8, 8, 4)), (8, 8, 3), "mode RGBA, .* needs RGB"),
        (file_of(noise(8, 8)), (8, 8, 3), "mode L, .* needs RGB"),
        (png_saying(8, 8, colour=3), (8, 8), "PNG"),
        (png_saying(8, 8, bits=1, colour=0), (8, 8), "mode 1, .* needs L"),
        (png_saying(8, 8, bits=16, colour=0), (8, 8), "mode I;16, .* needs L"),
        (png_saying(8, 8, bits=16, colour=2), (8, 8, 3), "16 bits a sample, its tensor of uint8 needs 8"),
        (png_saying(8, 8, bits=16, colour=6), (8, 8, 4), "16 bits a sample, its tensor of uint8 needs 8"),
        (png_saying(8, 8, bits=16, colour=4), (8, 8, 2), "needs"),
        (png_saying(8, 8, bits=4, colour=0), (8, 8), "4 bits a sample, its tensor of uint8 needs 8"),
    ],
    ids=[
        "a bomb",
        "larger",
        "smaller",
        "turned",
        "RGBA as RGB",
        "grey as RGB",
        "a palette",
        "one bit",
        "16 bits as 8",
        "16-bit RGB as 8",
        "16-bit RGBA as 8",
        "16-bit grey and alpha as 8",
        "4 bits as 8",
    ],
)
def test_a_png_that_is_not_what_its_tensor_says_is_never_decoded(
    data: bytes, shape: tuple[int, ...], text: str, decoding: Decoding
) -> None:
    with pytest.raises(ImageError, match=text):
        decode(data, PNG, U8, shape)
    assert decoding.count == 0


@pytest.mark.parametrize(
    ("sent", "shape", "text"),
    [
        (noise(8, 8, 3), (8, 16, 3), "the JPEG is 8 x 8"),
        (noise(8, 8), (8, 8, 3), "mode L, .* needs RGB"),
        (noise(8, 8, 3), (8, 8), "mode RGB, .* needs L"),
    ],
)
def test_a_jpeg_that_is_not_what_its_tensor_says_is_never_decoded(
    sent: Array, shape: tuple[int, ...], text: str, decoding: Decoding
) -> None:
    data = file_of(sent, JPEG)
    with pytest.raises(ImageError, match=text):
        decode(data, JPEG, U8, shape)
    assert decoding.count == 0


def test_a_jpeg_in_print_colours_is_never_decoded(decoding: Decoding) -> None:
    out = io.BytesIO()
    PIL.Image.new("CMYK", (8, 8)).save(out, "JPEG")
    decoding.count = 0
    with pytest.raises(ImageError, match="mode CMYK"):
        decode(out.getvalue(), JPEG, U8, (8, 8, 3))
    assert decoding.count == 0


def test_a_png_is_not_taken_for_a_jpeg_nor_a_gif_for_a_png() -> None:
    image = noise(8, 8, 3)
    with pytest.raises(ImageError, match="broken JPEG"):
        decode(file_of(image, PNG), JPEG, U8, image.shape)
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, "GIF")
    with pytest.raises(ImageError, match="broken PNG: it does not begin as one"):
        decode(out.getvalue(), PNG, U8, image.shape)


@pytest.mark.parametrize("encoding", [JPEG, PNG])
@pytest.mark.parametrize("keep", [0, 1, 10, 0.5, 0.95])
def test_a_truncated_image_is_an_error(encoding: Encoding, keep: float) -> None:
    image = noise(32, 32, 3)
    data = file_of(image, encoding)
    with pytest.raises(ImageError, match="broken"):
        decode(data[: int(keep if keep >= 1 or keep == 0 else keep * len(data))], encoding, U8, image.shape)


@settings(max_examples=200, deadline=None)
@given(encoding=st.sampled_from([JPEG, PNG]), data=st.binary(max_size=200), changes=st.data())
def test_garbage_is_an_image_error_or_an_image_of_the_right_shape(
    encoding: Encoding, data: bytes, changes: Any
) -> None:
    with pytest.raises(ImageError):
        decode(data, encoding, U8, (8, 8, 3))
    good = bytearray(file_of(noise(8, 8, 3), encoding))
    for at in changes.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        good[at] = changes.draw(st.integers(0, 255))
    try:
        got = decode(good, encoding, U8, (8, 8, 3))
    except ImageError:
        return
    assert got.shape == (8, 8, 3)
    assert got.dtype == U8


def test_without_pillow_the_error_names_the_extra() -> None:
    program = """
import sys
sys.modules["PIL"] = None
import numpy as np
from inferential.proto import JPEG
from inferential.proto.images import check_shape, decode, encode
check_shape(JPEG, np.dtype(np.uint8), (8, 8, 3))
for use in (lambda: encode(np.zeros((8, 8, 3), np.uint8), JPEG), lambda: decode(b"", JPEG, np.dtype("u1"), (8, 8, 3))):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count("Pillow, which is not installed: pip install 'inferential[images]'") == 2
