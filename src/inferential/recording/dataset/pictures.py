"""Images of a dataset: as video, where an encoder is there, else as PNG within the table; depth as TIFF there."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from inferential.proto import PNG
from inferential.proto.images import encode
from inferential.recording.dataset.priority import priority_kept

CODECS: Final = ("libsvtav1", "libx264", "libopenh264")
"""Encoders, the best one first: AV1 is what LeRobot writes, H.264 what everything reads."""
_OPTIONS = {
    "libsvtav1": {"g": "2", "crf": "30", "preset": "10"},
    "libx264": {"g": "2", "crf": "23"},
    "libopenh264": {"g": "2"},
}
_FORMAT = "yuv420p"


def find_codec(fps: int, shapes: Iterable[tuple[int, ...]]) -> str | None:
    """Returns the video encoder that takes images of these shapes at this rate; None without one, or without PyAV.

    Tried with a frame each: AV1's takes 240 frames a second at most, and a build of FFmpeg may have neither.
    """
    try:
        import av
    except ImportError:
        return None
    black = [np.zeros(shape, np.uint8) for shape in sorted(set(shapes))]
    for codec in CODECS:
        try:
            for pixels in black:
                with Video(io.BytesIO(), codec, fps, even(pixels.shape)) as video:
                    video.add(pixels)
        except av.FFmpegError:
            continue
        return codec
    return None


def to_rgb(pixels: Any) -> Any:
    """Returns pixels of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as (H, W, 3)."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


def to_png(pixels: Any) -> bytes:
    """Returns the PNG file of pixels of shape (H, W, 3)."""
    return bytes(encode(pixels, PNG).data)


def to_tiff(depth: Any) -> bytes:
    """Returns the TIFF file of depth of shape (H, W), uint16 or float32, whose values it keeps."""
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(depth).save(file, "tiff")
    return file.getvalue()


def even(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a video's frames for images of (H, W, 3): with even sides, as encoders want them."""
    return (shape[0] + shape[0] % 2, shape[1] + shape[1] % 2, 3)


class Video:
    """One video file that is written; use it in a `with` statement.

    Args:
        file: its path, whose folder is there, or an open file.
        codec: as `find_codec` gives it.
        fps: frames per second.
        shape: (H, W, 3) of a frame, as `even` gives it.
    """

    def __init__(self, file: Path | BinaryIO, codec: str, fps: int, shape: tuple[int, ...]) -> None:
        import av

        os.environ.setdefault("SVT_LOG", "0")  # else the AV1 encoder tells its settings, 20 lines a file
        self._av = av
        self._file = av.open(str(file) if isinstance(file, Path) else file, "w", format="mp4")
        stream = self._file.add_stream(codec, rate=fps, options=_OPTIONS[codec])
        assert isinstance(stream, av.video.stream.VideoStream)
        stream.height, stream.width = shape[:2]
        stream.pix_fmt = _FORMAT
        self._stream = stream

    def add(self, pixels: Any) -> None:
        """Writes a frame of shape (H, W, 3); where a side is odd, its last row or column twice."""
        odd = [(0, side % 2) for side in pixels.shape[:2]]
        frame = self._av.VideoFrame.from_ndarray(np.pad(pixels, (*odd, (0, 0)), mode="edge"), format="rgb24")
        with priority_kept():
            packets = self._stream.encode(frame)
        self._file.mux(packets)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._file.mux(self._stream.encode(None))
        self._file.close()


def describe(codec: str, fps: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns what a dataset says of a video feature."""
    return {
        "video.height": shape[0],
        "video.width": shape[1],
        "video.codec": "av1" if codec == "libsvtav1" else "h264",
        "video.pix_fmt": _FORMAT,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
