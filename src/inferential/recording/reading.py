"""Reads recordings back: requests with their observations, images and answers.

A file that was cut short, by a power failure or while it is written, is read up to there.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from mcap.exceptions import McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

from inferential.dtype_names import named_dtype
from inferential.errors import InferentialError
from inferential.recording.schemas import ANSWER, IMAGE, NAMES, OBSERVATION, message_class


class RecordingError(InferentialError, ValueError):
    """A file is no recording."""


class EncodedImage(NamedTuple):
    """An image as it is in the file.

    Attributes:
        shape, dtype: of its pixels in the model's eyes.
        data: JPEG or PNG.
    """

    shape: tuple[int, ...]
    dtype: str
    data: bytes

    def pixels(self) -> Any:
        """Returns the pixels, of `shape`.

        Raises:
            ValueError: the image cannot be decoded, or has another shape.
        """
        import PIL.Image

        with PIL.Image.open(io.BytesIO(self.data)) as image:
            return np.array(image).reshape(self.shape)


@dataclass(slots=True)
class Recorded:
    """One request of a recording.

    Attributes:
        client_id, client_type, model_id, session, request_id: whose it is.
        received_ns: when it came, by the server's wall clock.
        observation: arrays and texts by key, and EncodedImage where asked for; None where it was not recorded.
        answer: the same of the result; None where there was none.
        end: answered, or the kind of refusal.
        fields: what else was recorded of it: times in milliseconds, version, reason.
    """

    client_id: str
    client_type: str
    model_id: str
    session: str
    request_id: int
    received_ns: int
    observation: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    end: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


_TIMES = ("queue_ms", "inference_ms", "server_ms", "budget_ms", "batch_size", "late", "reason", "model_version")
_SENT = ("latency_budget_ms", "steps_remaining", "priority", "urgency")


def read_recording(path: Path, images: Literal["pixels", "encoded"] = "pixels") -> Iterator[Recorded]:
    """Yields the requests of a file, in the order of their ends.

    Args:
        path: the file.
        images: "encoded" leaves them as they are in the file, as EncodedImage.

    Raises:
        RecordingError: it is no MCAP file, or none of this package.
        OSError: it cannot be read.
    """
    classes = {name: message_class(name) for name in NAMES}
    parts: dict[int, list[tuple[str, Any]]] = {}
    known = False
    for schema, _, message in _messages(path):
        if schema not in classes:
            continue
        known = True
        try:
            decoded = classes[schema].FromString(message.data)
        except DecodeError:
            continue
        parts.setdefault(message.sequence, []).append((schema, decoded))
        if schema == ANSWER:
            yield _recorded(parts.pop(message.sequence), images)
    if not known:
        raise RecordingError(f"{path}: no message of a recording is in it")


def _messages(path: Path) -> Iterator[tuple[str, Channel, Message]]:
    schemas: dict[int, str] = {}
    channels: dict[int, Channel] = {}
    with path.open("rb") as file:
        if not file.read(8).startswith(b"\x89MCAP0"):
            raise RecordingError(f"{path}: not an MCAP file")
        file.seek(0)
        reader = StreamReader(file)
        records = iter(reader.records)
        while True:
            try:
                record = next(records, None)
            except (McapError, struct.error, EOFError, io.UnsupportedOperation, ValueError):
                return  # cut short
            if record is None:
                return
            if isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Message) and record.channel_id in channels:
                channel = channels[record.channel_id]
                yield schemas.get(channel.schema_id, ""), channel, record


def _recorded(parts: list[tuple[str, Any]], as_what: Literal["pixels", "encoded"]) -> Recorded:
    answer = next(message for schema, message in parts if schema == ANSWER)
    observed = next((message for schema, message in parts if schema == OBSERVATION), None)
    images = {message.frame_id: message for schema, message in parts if schema == IMAGE}
    server_ns = int(answer.server_ms * 1e6)
    received_ns = answer.timestamp.ToNanoseconds() - server_ns
    found = Recorded(
        answer.client_id, answer.client_type, answer.model_id, answer.session, answer.request_id, received_ns
    )
    found.end = answer.end
    found.fields = {name: getattr(answer, name) for name in _TIMES}
    if answer.end == "answered":
        found.answer = _values(answer)
    if observed is not None:
        found.received_ns = observed.timestamp.ToNanoseconds()
        found.fields |= {name: getattr(observed, name) for name in _SENT}
        found.observation = _values(observed)
        for image in observed.images:
            if image.key in images:
                encoded = EncodedImage(tuple(image.shape), image.dtype, images[image.key].data)
                found.observation[image.key] = encoded if as_what == "encoded" else encoded.pixels()
    return found


def _values(message: Any) -> dict[str, Any]:
    values: dict[str, Any] = {text.key: text.value for text in message.texts}
    for array in message.arrays:
        values[array.key] = np.frombuffer(array.data, named_dtype(array.dtype)).reshape(tuple(array.shape)).copy()
    return values
