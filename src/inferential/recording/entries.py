"""What is recorded of one request, and the messages that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from inferential.observation.values import read_observation, read_slots, slots_in
from inferential.proto.messages import read_response
from inferential.proto.tensors import Buffer, view
from inferential.recording.cameras import ENCODINGS, Images, Kind, Picture, kind_of, picture_of
from inferential.recording.schemas import ANSWER, IMAGE, OBSERVATION, RAW_IMAGE, message_class
from inferential.replica.shared import Place

_PLOTTED = 64  # values of an array, at most, that are there as numbers too
_Observation, _Answer = message_class(OBSERVATION), message_class(ANSWER)
_Image, _RawImage = message_class(IMAGE), message_class(RAW_IMAGE)


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
        place: where the payload lies in memory that is shared with what writes; None: it is `payload`.
    """

    received_ns: int
    ended_ns: int
    clock_ns: int
    sequence: int
    common: dict[str, Any]
    observation: dict[str, Any]
    answer: dict[str, Any]
    envelope: Buffer | None
    payload: Buffer
    result_envelope: bytes | None
    result_payload: Buffer
    place: Place | None = None

    @property
    def bytes_held(self) -> int:
        """What it takes while it waits, about."""
        payload = len(self.payload) if self.place is None else self.place.length
        return 1024 + payload + len(self.result_payload) + len(self.envelope or b"")


class Record(NamedTuple):
    """One message of a recording."""

    topic: str
    schema: str
    time_ns: int
    data: bytes


def topics_of(client_id: str, model_id: str, cameras: Mapping[str, Kind]) -> dict[str, str]:
    """Returns the topics of a robot at a model, each with the name of its schema."""
    base = _base(client_id, model_id)
    schemas = {key: RAW_IMAGE if kind is Kind.DEPTH else IMAGE for key, kind in cameras.items()}
    images = {_image_topic(base, key, schema): schema for key, schema in schemas.items()}
    return {f"{base}/observation": OBSERVATION, **images, f"{base}/answer": ANSWER}


def cameras_of(envelope: Buffer, payload: Buffer) -> dict[str, Kind]:
    """Returns the kinds of an observation's pictures, by key.

    Raises:
        ValueError: its frames cannot be read.
    """
    kinds = {slot.key: kind_of(slot, payload) for slot in read_slots(envelope, len(payload))[0]}
    return {key: kind for key, kind in kinds.items() if kind is not None}


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
    received_ns, ended_ns = (max(at + ahead_ns, 0) for at in (entry.received_ns, entry.ended_ns))
    if entry.envelope is not None:
        message = _Observation(**entry.common, **entry.observation)
        message.timestamp.FromNanoseconds(received_ns)
        sent = read_observation(entry.envelope)
        applied = sent.applied
        message.applied_id, message.applied_age_ms = applied.request_id, applied.age_ms
        message.applied_unread_ms = applied.unread_ms
        message.latency_budget_ms, message.control_period_ms = sent.latency_budget_ms, sent.control_period_ms
        slots, texts = slots_in(sent, len(entry.payload))
        _add_texts(message, texts)
        for slot in slots:
            kind = kind_of(slot, entry.payload)
            topic = _image_topic(base, slot.key, RAW_IMAGE if kind is Kind.DEPTH else IMAGE)
            if kind is not None and images.kind == "none":
                continue
            skipped = kind is not None and not is_wanted(topic)
            picture = None if kind is None or skipped else picture_of(slot, entry.payload, kind, images)
            if picture is not None or skipped:
                message.images.add(key=slot.key, dtype=slot.numpy_dtype.name, shape=slot.shape)
            if picture is not None:
                yield _image_record(base, slot.key, received_ns, picture)
            if not skipped and (picture is None or not picture.is_exact):
                data = view(entry.payload, slot.numpy_dtype, slot.shape, slot.byte_offset, slot.byte_length)
                _add_array(message.arrays, slot.key, data)
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


def _image_topic(base: str, key: str, schema: str) -> str:
    """Returns the topic of a picture: viewers want one schema for each."""
    return f"{base}/{'depth' if schema == RAW_IMAGE else 'image'}/{_segment(key)}"


def _image_record(base: str, key: str, time_ns: int, picture: Picture) -> Record:
    """Returns the message of a picture: Foxglove's own types, by which viewers show it."""
    if picture.form in ENCODINGS:
        schema, step = RAW_IMAGE, picture.width * ENCODINGS[picture.form].itemsize
        sides = {"width": picture.width, "height": picture.height, "step": step}
        message = _RawImage(frame_id=key, data=picture.data, encoding=picture.form, **sides)
    else:
        schema, message = IMAGE, _Image(frame_id=key, data=picture.data, format=picture.form)
    message.timestamp.FromNanoseconds(time_ns)
    return Record(_image_topic(base, key, schema), schema, time_ns, message.SerializeToString())


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


def base_of(topic: str) -> str:
    """Returns what all topics of a robot at a model begin with."""
    return "/".join(topic.split("/", 4)[:4])


def _segment(name: str) -> str:
    """Returns a name as one segment of a topic."""
    return name.replace("/", "_") or "_"
