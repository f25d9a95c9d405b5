"""What is recorded of one request, and the messages that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from inferential.observation.slots import SlotInfo
from inferential.observation.values import read_slots
from inferential.proto import inferential_pb2 as pb
from inferential.proto.images import ImageError, encode
from inferential.proto.messages import read_response
from inferential.proto.tensors import Buffer, view
from inferential.recording.schemas import ANSWER, IMAGE, OBSERVATION, message_class

_PLOTTED = 64  # values of an array, at most, that are there as numbers too
_Observation, _Answer, _Image = message_class(OBSERVATION), message_class(ANSWER), message_class(IMAGE)


class Images(NamedTuple):
    """How images are recorded: as they came, else lossless (keep); as JPEG of a quality; or not at all (none)."""

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


@dataclass(slots=True)
class Entry:
    """One request and its end.

    Attributes:
        received_ns, ended_ns: by the monotonic clock, whose times are in order.
        clock_ns: what the wall clock, since 1970, was ahead of it when the request ended.
        sequence: of the recording; the same for all messages of a request.
        common: the fields that observation and answer share.
        observation: further fields of the observation.
        answer: those of the answer.
        envelope, payload: the observation's frames; None: it is not recorded.
        result_envelope, result_payload: the answer's; None: there is none.
    """

    received_ns: int
    ended_ns: int
    clock_ns: int
    sequence: int
    common: dict[str, Any]
    observation: dict[str, Any]
    answer: dict[str, Any]
    envelope: Buffer | None
    payload: bytes
    result_envelope: bytes | None
    result_payload: Buffer

    @property
    def bytes_held(self) -> int:
        """What it takes while it waits, about."""
        return 1024 + len(self.payload) + len(self.result_payload) + len(self.envelope or b"")


class Record(NamedTuple):
    """One message of a recording."""

    topic: str
    schema: str
    time_ns: int
    data: bytes


def topics_of(client_id: str, model_id: str, cameras: Iterable[str]) -> dict[str, str]:
    """Returns the topics of a robot at a model, each with the name of its schema."""
    base = _base(client_id, model_id)
    images = {f"{base}/image/{_segment(key)}": IMAGE for key in cameras}
    return {f"{base}/observation": OBSERVATION, **images, f"{base}/answer": ANSWER}


def cameras_of(envelope: Buffer, payload_size: int) -> list[str]:
    """Returns the keys of an observation's pictures.

    Raises:
        ValueError: its frames cannot be read.
    """
    return [slot.key for slot in read_slots(envelope, payload_size)[0] if _is_image(slot)]


def records_of(
    entry: Entry,
    images: Images,
    is_wanted: Callable[[str], bool] = lambda topic: True,
    *,
    clock_ns: int | None = None,
) -> Iterator[Record]:
    """Yields the messages of a request.

    Args:
        entry: the request.
        images: what becomes of pictures.
        is_wanted: whether a topic's messages are; what is not is not encoded.
        clock_ns: what to take the wall clock as ahead by; None: what it was.

    Raises:
        ValueError: its frames cannot be read.
    """
    base = _base(entry.common["client_id"], entry.common["model_id"])
    ahead_ns = entry.clock_ns if clock_ns is None else clock_ns
    received_ns, ended_ns = entry.received_ns + ahead_ns, entry.ended_ns + ahead_ns
    if entry.envelope is not None:
        message = _Observation(**entry.common, **entry.observation)
        message.timestamp.FromNanoseconds(received_ns)
        slots, texts = read_slots(entry.envelope, len(entry.payload))
        _add_texts(message, texts)
        for slot in slots:
            topic = f"{base}/image/{_segment(slot.key)}"
            if _is_image(slot) and not is_wanted(topic):
                message.images.add(key=slot.key, dtype=slot.numpy_dtype.name, shape=slot.shape)
                continue
            image = _image_of(slot, entry.payload, images)
            if image is None:
                if images.kind != "none" or not _is_image(slot):
                    data = view(entry.payload, slot.numpy_dtype, slot.shape, slot.byte_offset, slot.byte_length)
                    _add_array(message.arrays, slot.key, data)
                continue
            message.images.add(key=slot.key, dtype=slot.numpy_dtype.name, shape=slot.shape)
            picture = _Image(frame_id=slot.key, data=image[0], format=image[1])
            picture.timestamp.FromNanoseconds(received_ns)
            yield Record(topic, IMAGE, received_ns, picture.SerializeToString())
        if is_wanted(f"{base}/observation"):
            yield Record(f"{base}/observation", OBSERVATION, received_ns, message.SerializeToString())
    if not is_wanted(f"{base}/answer"):
        return
    message = _Answer(**entry.common, **entry.answer)
    message.timestamp.FromNanoseconds(ended_ns)
    if entry.result_envelope is not None:
        response = read_response(entry.result_envelope, entry.result_payload)
        message.model_version = response.model_version
        timing = response.timing
        if timing is not None:
            message.queue_ms, message.inference_ms = timing.queue_ms, timing.inference_ms
            message.batch_size = timing.batch_size
        _add_texts(message, {key: value for key, value in response.values.items() if isinstance(value, str)})
        for key, value in response.values.items():
            if not isinstance(value, str):
                _add_array(message.arrays, key, value)
    yield Record(f"{base}/answer", ANSWER, ended_ns, message.SerializeToString())


def _is_image(slot: SlotInfo) -> bool:
    """Returns whether a tensor is a picture: compressed, or uint8 of (H, W, 1 or 3) with sides of 8 and more."""
    if slot.encoding != "raw":
        return True
    shape = slot.shape
    return slot.numpy_dtype == np.uint8 and len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= 8


def _image_of(slot: SlotInfo, payload: bytes, images: Images) -> tuple[bytes, str] | None:
    """Returns a tensor's picture and its format; None where it is none, or pictures are not recorded."""
    if images.kind == "none" or not _is_image(slot):
        return None
    raw = memoryview(payload)[slot.byte_offset : slot.byte_offset + slot.byte_length]
    if slot.encoding != "raw" and (images.kind == "keep" or slot.encoding == "jpeg"):
        return bytes(raw), slot.encoding
    try:
        if slot.encoding == "raw":
            pixels = view(payload, slot.numpy_dtype, slot.shape, slot.byte_offset, slot.byte_length)
        else:
            from inferential.proto import encoding_from_string
            from inferential.proto.images import decode

            pixels = decode(raw, encoding_from_string(slot.encoding), slot.numpy_dtype, slot.shape)
        if images.kind == "jpeg":
            return bytes(encode(pixels, pb.JPEG, images.quality).data), "jpeg"
        return bytes(encode(pixels, pb.PNG).data), "png"
    except ImageError:
        return None if slot.encoding == "raw" else (bytes(raw), slot.encoding)  # what the format cannot hold


def _add_array(arrays: Any, key: str, value: Any) -> None:
    array = np.ascontiguousarray(value)
    added = arrays.add(key=key, dtype=array.dtype.name, shape=np.shape(value), data=array.tobytes())
    if array.size <= _PLOTTED and array.dtype.kind in "biuf":
        added.values.extend(array.ravel().astype(np.float64).tolist())


def _add_texts(message: Any, texts: Mapping[str, str]) -> None:
    for key, value in texts.items():
        message.texts.add(key=key, value=value)


def _base(client_id: str, model_id: str) -> str:
    return f"/robots/{_segment(client_id)}/{_segment(model_id)}"


def _segment(name: str) -> str:
    """Returns a name as one segment of a topic."""
    return name.replace("/", "_") or "_"
