"""Which values of an observation are pictures, in what form viewers show them, and what the model saw of them.

One rule, for what is recorded, shown live and exported. Axes of length 1 in front do not count: a batch of one is a
picture. Sides have 8 pixels and more.

    colour   uint8, or floats from 0 to 1, of (H, W, C) or (C, H, W) with 3 or 4 channels, or of (H, W, 1);
             uint8 of (H, W); what the SDK compressed
    depth    uint16 of (H, W); floats of (H, W) whose key has `depth` in it
    file     the bytes of a JPEG or PNG file, as uint8 of one axis
"""

from __future__ import annotations

import io
import struct
import zlib
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from inferential.observation.slots import SlotInfo
from inferential.proto import encoding_from_string
from inferential.proto import inferential_pb2 as pb
from inferential.proto.images import ImageError, decode, encode
from inferential.proto.tensors import Buffer, view

_SHORTEST_SIDE = 8
_CHANNELS = (3, 4)
_PNG = b"\x89PNG\r\n\x1a\n"
_MAGIC = {b"\xff\xd8\xff": "jpeg", _PNG: "png"}
_UP = 2  # PNG, 9.2: the filter of a row
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # PNG, 11.2.2, by the number of channels
ENCODINGS: Final[dict[str, np.dtype[Any]]] = {"16UC1": np.dtype("<u2"), "32FC1": np.dtype("<f4")}
"""Of depth, by the names that viewers have for them: millimetres and metres, as a rule."""


class Images(NamedTuple):
    """How pictures are recorded: as they came, else lossless (keep); as JPEG of a quality; or not at all (none)."""

    kind: Literal["keep", "jpeg", "none"] = "keep"
    quality: int = 0


def images_of(text: str) -> Images:
    """Returns what `recording.images` says.

    Raises:
        ValueError: it is none of keep, none and jpeg:QUALITY.
    """
    kind, colon, quality = text.partition(":")
    if kind in ("keep", "none") and not colon:
        return Images(kind)  # type: ignore[arg-type]
    if kind == "jpeg" and quality.isascii() and quality.isdecimal() and 1 <= int(quality) <= 100:
        return Images("jpeg", int(quality))
    raise ValueError(f"expected keep, none or jpeg:QUALITY with 1 to 100, got {text!r}")


class Kind(Enum):
    """The kinds of pictures."""

    COLOUR = "colour"
    DEPTH = "depth"
    FILE = "file"


class Picture(NamedTuple):
    """A picture as it is recorded.

    Attributes:
        form: jpeg or png, whose file `data` is; else one of ENCODINGS, and `data` the rows one after another.
        data: its bytes.
        height, width: of what is no file; else 0.
        is_exact: whether the values that the model saw can be found from it.
    """

    form: str
    data: bytes
    height: int = 0
    width: int = 0
    is_exact: bool = True


def kind_of(slot: SlotInfo, payload: Buffer) -> Kind | None:
    """Returns what kind of picture a tensor is, by its key, type and shape; None: none."""
    dtype, shape = slot.numpy_dtype, _without_ones(slot.shape)
    if slot.encoding != "raw":
        return Kind.DEPTH if dtype == np.uint16 else Kind.COLOUR
    if len(slot.shape) == 1 and dtype == np.uint8:
        return Kind.FILE if _format_of(memoryview(payload)[slot.byte_offset :][: slot.byte_length]) else None
    if depth_sides(slot.key, dtype, slot.shape) is not None:
        return Kind.DEPTH
    if len(shape) == 2:
        is_picture = min(shape) >= _SHORTEST_SIDE and (dtype == np.uint8 or (_is_float(dtype) and slot.shape[-1] == 1))
    else:
        is_picture = _has_channels_last(shape) or _has_channels_first(shape)
    return Kind.COLOUR if is_picture and (dtype == np.uint8 or _is_float(dtype)) else None


def depth_sides(key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Returns the height and width of an array that is depth; None: it is none."""
    plain = _without_ones(shape)
    if len(plain) != 2 or min(plain) < _SHORTEST_SIDE:
        return None
    is_depth = dtype == np.uint16 or (_is_float(dtype) and "depth" in key.lower())
    return (plain[0], plain[1]) if is_depth else None


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def picture_of(slot: SlotInfo, payload: Buffer, kind: Kind, images: Images) -> Picture | None:
    """Returns a tensor's picture; None where its values make none, or its bytes are broken.

    Args:
        slot: the tensor.
        payload: the observation's.
        kind: of the picture.
        images: keep or jpeg.
    """
    raw = memoryview(payload)[slot.byte_offset : slot.byte_offset + slot.byte_length]
    if kind is Kind.FILE:
        return Picture(_format_of(raw), bytes(raw))
    as_it_came = Picture(slot.encoding, bytes(raw)) if slot.encoding != "raw" else None
    if as_it_came and kind is Kind.COLOUR and (images.kind == "keep" or slot.encoding == "jpeg"):
        return as_it_came
    try:
        if slot.encoding == "raw":
            values = view(payload, slot.numpy_dtype, slot.shape, slot.byte_offset, slot.byte_length)
        else:
            values = decode(raw, encoding_from_string(slot.encoding), slot.numpy_dtype, slot.shape)
        return _depth(values) if kind is Kind.DEPTH else _colour(values, images)
    except ImageError:
        return as_it_came


def _depth(values: Any) -> Picture:
    form = "16UC1" if values.dtype == np.uint16 else "32FC1"
    height, width = _without_ones(values.shape)
    pixels = values.astype(ENCODINGS[form])
    is_exact = _is_same(pixels.astype(values.dtype), values)
    return Picture(form, pixels.tobytes(), height, width, is_exact)


def _is_same(values: Any, others: Any) -> bool:
    """Returns whether arrays of one type and shape are the same, bit by bit: of -0.0 and NaN too."""
    return bool(np.array_equal(values.ravel().view(np.uint8), others.ravel().view(np.uint8)))


def _colour(values: Any, images: Images) -> Picture | None:
    levels, is_exact = values, True
    if values.dtype != np.uint8:
        wide = values.astype(np.float32)
        if not (wide.min() >= 0.0 and wide.max() <= 1.0):  # NaN too
            return None
        levels = np.rint(wide * 255.0).astype(np.uint8)
        is_exact = images.kind == "jpeg" or _is_same(_as_floats(levels, values.dtype), values)
    pixels = _rows_first(levels)
    if images.kind == "jpeg" and (pixels.ndim == 2 or pixels.shape[2] == 3):
        return Picture("jpeg", bytes(encode(pixels, pb.JPEG, images.quality).data), is_exact=is_exact)
    return Picture("png", _png(pixels), is_exact=is_exact)


def _png(pixels: Any) -> bytes:
    """Returns the PNG file of uint8 pixels of (H, W) or (H, W, C).

    Each row is stored as its difference to the one above, and not compressed: that is left to the file that it is
    written into, whose zstd takes a tenth of the time of zlib and as little room.
    """
    height, width = pixels.shape[:2]
    levels = pixels.reshape(height, -1)
    rows = np.empty((height, 1 + levels.shape[1]), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = levels[0]
    np.subtract(levels[1:], levels[:-1], out=rows[1:, 1:])
    kind = _COLOUR_TYPES[pixels.shape[2] if pixels.ndim == 3 else 1]
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 0)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def pixels_in(data: bytes) -> Any:
    """Returns the pixels of a JPEG or PNG file: uint8 of (H, W) or (H, W, C).

    Raises:
        ValueError: it cannot be decoded.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            return np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise a dozen types on broken files
        raise ImageError(f"broken picture: {_said_by(error)}") from error


def _said_by(error: Exception) -> str:
    """Returns what Pillow says, without the names of Python's objects in it."""
    import PIL

    return "it does not begin as one" if isinstance(error, PIL.UnidentifiedImageError) else str(error)


def size_of(data: bytes, shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the height and width of a picture.

    Args:
        data: the JPEG or PNG file, whose head is read where the shape does not say.
        shape: of what the model saw.

    Raises:
        ValueError: it begins as neither.
    """
    if len(shape) > 1:
        plain = _without_ones(shape)
        height, width = plain[1:] if _has_channels_first(plain) else plain[:2]
        return height, width
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            return image.height, image.width
    except Exception as error:  # as above
        raise ImageError(f"broken picture: {_said_by(error)}") from error


def values_of(data: bytes, form: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Returns what the model saw of a picture.

    Args:
        data: the picture's bytes.
        form: as `Picture` has it.
        dtype, shape: of what the model saw.

    Raises:
        ValueError: it cannot be decoded, or is of another size.
    """
    if form in ENCODINGS:
        return np.frombuffer(data, ENCODINGS[form]).astype(dtype).reshape(shape)
    if len(shape) == 1:
        return np.frombuffer(data, np.uint8).copy()
    plain = _without_ones(shape)
    height, width, *channels = (*plain[1:], plain[0]) if _has_channels_first(plain) else plain
    encoding = pb.JPEG if data.startswith(b"\xff\xd8") else pb.PNG
    stored = np.dtype(np.uint16) if dtype == np.uint16 else np.dtype(np.uint8)
    pixels = decode(data, encoding, stored, (height, width, *channels))
    if _has_channels_first(plain):
        pixels = np.moveaxis(pixels, -1, 0)
    return (pixels if dtype == stored else _as_floats(pixels, dtype)).reshape(shape)


def _as_floats(levels: Any, dtype: np.dtype[Any]) -> Any:
    return (levels / 255.0).astype(dtype)


def _rows_first(values: Any) -> Any:
    """Returns the pixels of (H, W) or (H, W, C)."""
    pixels = values.reshape(_without_ones(values.shape))
    return np.moveaxis(pixels, 0, -1) if _has_channels_first(pixels.shape) else pixels


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape without axes of length 1 in front, and without the only channel."""
    while len(shape) > 2 and shape[0] == 1 and not (len(shape) == 3 and shape[2] <= max(_CHANNELS)):
        shape = shape[1:]
    return shape[:2] if len(shape) == 3 and shape[2] == 1 else shape


def _has_channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] in _CHANNELS and min(shape[:2]) >= _SHORTEST_SIDE


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in _CHANNELS and min(shape[1:]) >= _SHORTEST_SIDE


def _format_of(data: Buffer) -> str:
    """Returns the format of a file by its first bytes; "": neither JPEG nor PNG."""
    head = bytes(memoryview(data)[:8])
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
