"""JPEG and PNG tensors: compressed on the robot, arrays again before the model sees them.

Pillow does the work, and releases the interpreter lock while it decodes. The header of a file is read first, and a file
that does not match its tensor's shape and dtype is never decoded.
"""

from __future__ import annotations

import io
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.errors import InferentialError
from inferential.proto import inferential_pb2 as pb
from inferential.proto.tensors import Array, Buffer, EncodedImage

DEFAULT_JPEG_QUALITY = 90
_FORMATS = {int(pb.JPEG): "JPEG", int(pb.PNG): "PNG"}
# Pillow's mode of a tensor of (channels, dtype); 1 stands for a plain H x W array too.
_MODES: dict[tuple[int, str], str] = {
    (1, "uint8"): "L",
    (2, "uint8"): "LA",
    (3, "uint8"): "RGB",
    (4, "uint8"): "RGBA",
    (1, "uint16"): "I;16",
}
_JPEG_CHANNELS = (1, 3)
_RUNS = 3  # Z_RLE of zlib: it looks for runs, and for no other repetition
_JPEG_MAX_SIDE = 65_500  # JPEG_MAX_DIMENSION of libjpeg


class ImageError(InferentialError, ValueError):
    """An image cannot be encoded, or is not what its tensor says."""


@cache
def _pillow() -> ModuleType:
    try:
        import PIL.Image
    except ImportError:
        raise ImportError(
            "JPEG and PNG tensors need Pillow, which is not installed: pip install 'inferential[images]'"
        ) from None
    return PIL.Image


def check_shape(encoding: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raises ImageError unless an image of this encoding can hold an array of this dtype and shape.

    JPEG holds uint8 of (H, W), (H, W, 1) or (H, W, 3), sides up to 65,500; PNG also (H, W, 2), (H, W, 4), and uint16
    of (H, W).
    """
    name = _FORMATS[encoding]
    channels = shape[2] if len(shape) == 3 else 1
    known = len(shape) in (2, 3) and (channels, dtype.name) in _MODES and min(shape) > 0
    if encoding == pb.JPEG:
        known = known and dtype == np.uint8 and channels in _JPEG_CHANNELS and max(shape) <= _JPEG_MAX_SIDE
    elif dtype.name == "uint16":
        known = known and len(shape) == 2
    if not known:
        held = "uint8 of (H, W) or (H, W, 3)"
        held += (
            f", sides up to {_JPEG_MAX_SIDE}" if encoding == pb.JPEG else ", (H, W, 2), (H, W, 4), or uint16 of (H, W)"
        )
        raise ImageError(f"{name} cannot hold {dtype.name} of shape {shape}: {held}")


def encode(
    array: Array, encoding: pb.Encoding, quality: int = DEFAULT_JPEG_QUALITY, scale: float = 1.0
) -> EncodedImage:
    """Compresses an image array.

    Args:
        array: shape (H, W) or (H, W, C), rows from the top, channels in RGB order.
        encoding: JPEG or PNG.
        quality: 1 to 100, for JPEG.
        scale: of both sides; below 1 the image is made smaller, at least one pixel each.

    Raises:
        ImageError: the format cannot hold the array.
        ImportError: Pillow is not installed.
    """
    check_shape(encoding, array.dtype, array.shape)
    pixels = array.reshape(array.shape[:2]) if array.ndim == 3 and array.shape[2] == 1 else array
    if pixels.dtype.name == "uint16":
        pixels = pixels.astype("<u2", copy=False)
    image = _pillow().fromarray(np.ascontiguousarray(pixels))
    shape = array.shape
    if scale < 1.0:
        height, width = (max(round(side * scale), 1) for side in shape[:2])
        image, shape = image.resize((width, height), _pillow().Resampling.BOX), (height, width, *shape[2:])
    out = io.BytesIO()
    if encoding == pb.JPEG:
        image.save(out, "JPEG", quality=quality)
    else:
        # A robot has more bandwidth than time; of a camera's noise, runs alone take less time and less room.
        image.save(out, "PNG", compress_level=1, compress_type=_RUNS)
    return EncodedImage(out.getvalue(), array.dtype, shape, encoding)


def decode(data: Buffer, encoding: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Returns the array of an image file that must be of this dtype and shape.

    Raises:
        ImageError: the bytes are not such an image, or it has another size or mode.
    """
    check_shape(encoding, dtype, shape)
    pillow = _pillow()
    name = _FORMATS[encoding]
    channels = shape[2] if len(shape) == 3 else 1
    mode = _MODES[channels, dtype.name]
    try:
        with pillow.open(io.BytesIO(data), formats=[name]) as image:
            if (image.height, image.width) != shape[:2]:
                raise ImageError(f"the {name} is {image.height} x {image.width}, its tensor says {shape[:2]}")
            if image.mode != mode:
                raise ImageError(f"the {name} has mode {image.mode}, its tensor of shape {shape} needs {mode}")
            if encoding == pb.PNG:
                _check_depth(data, dtype)
            image.load()
            decoded = np.array(image, dtype=dtype)
    except ImageError:
        raise
    except pillow.UnidentifiedImageError as error:  # whose text is that of a Python object
        raise ImageError(f"broken {name}: it does not begin as one") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on broken files
        raise ImageError(f"broken {name}: {error}") from error
    return decoded.reshape(shape)


def _check_depth(data: Buffer, dtype: np.dtype[Any]) -> None:
    """Raises ImageError unless a PNG has as many bits a sample as the dtype: Pillow halves 16-bit colour silently.

    The first chunk is the header: length, type, width and height of 4 bytes each, then the depth (PNG, 11.2.1).
    """
    header, bits = bytes(memoryview(data)[:25]), 8 * dtype.itemsize
    if header[12:16] != b"IHDR":
        raise ImageError("broken PNG: its first chunk is not IHDR")
    if header[24] != bits:
        raise ImageError(f"the PNG has {header[24]} bits a sample, its tensor of {dtype.name} needs {bits}")
