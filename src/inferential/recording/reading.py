"""Reads recordings back: requests with their observations, images and answers.

A file that was cut short, by a power failure or while it is written, is read up to there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

from inferential.dtype_names import named_dtype
from inferential.errors import InferentialError
from inferential.proto.structure import STRUCTURE_KEY, restore
from inferential.recording.cameras import pixels_in, size_of, values_of
from inferential.recording.entries import base_of
from inferential.recording.schemas import ANSWER, IMAGE, NAMES, OBSERVATION, RAW_IMAGE, message_class

logger: logging.Logger = logging.getLogger("inferential.recording")
_RawImage: Any = message_class(RAW_IMAGE)


class RecordingError(InferentialError, ValueError):
    """A file is no recording."""


class EncodedImage(NamedTuple):
    """An image as it is in the file.

    Attributes:
        shape, dtype: of what the model saw: its pixels, floats of them, or the bytes of a file.
        data: JPEG or PNG.
    """

    shape: tuple[int, ...]
    dtype: str
    data: bytes

    def pixels(self) -> Any:
        """Returns what the model saw, of `shape`.

        Raises:
            ValueError: the image cannot be decoded, or has another shape.
        """
        return values_of(self.data, "", named_dtype(self.dtype), self.shape)

    def picture(self) -> Any:
        """Returns what a person sees: uint8 of (H, W) or (H, W, C).

        Raises:
            ValueError: the image cannot be decoded.
        """
        return pixels_in(self.data)

    def size(self) -> tuple[int, int]:
        """Returns the height and width of the picture.

        Raises:
            ValueError: it does not begin as one.
        """
        return size_of(self.data, self.shape)


@dataclass(slots=True)
class Recorded:
    """One request of a recording.

    Attributes:
        client_id, client_type, model_id, session, request_id: whose it is.
        received_ns: when it came, by the server's wall clock.
        observation: arrays and texts by key, and EncodedImage where asked for or where an image is broken; None where
            it was not recorded.
        answer: the same of the result; None where there was none.
        end: answered, or the kind of refusal.
        fields: what else was recorded of it: times in milliseconds, version, reason.
        structure: how the values of the observation are nested, see `proto.structure`; "" where they are not.
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
    structure: str = ""

    def seen(self) -> dict[str, Any]:
        """Returns the observation as the model saw it: nested where it was sent so, images decoded.

        Raises:
            ValueError: it was not recorded, or not whole, or an image is broken.
        """
        if self.observation is None:
            raise ValueError("the observation was not recorded")
        values = {
            key: value.pixels() if isinstance(value, EncodedImage) else value for key, value in self.observation.items()
        }
        return restore({**values, STRUCTURE_KEY: self.structure}) if self.structure else values


_MAGIC = b"\x89MCAP0\r\n"
_TIMES = ("queue_ms", "inference_ms", "server_ms", "budget_ms", "batch_size")
_ENDED = (*_TIMES, "late", "late_cause", "reason", "model_version")
_APPLIED = ("applied_id", "applied_age_ms", "applied_unread_ms")
_SENT = ("latency_budget_ms", "control_period_ms", "steps_remaining", "priority", "urgency", *_APPLIED)


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
    parts: dict[tuple[str, int], list[tuple[str, Any]]] = {}  # files of two servers may have been merged into one
    known = False
    try:
        for topic, schema, message in _messages(path):
            if schema not in classes:
                continue
            known = True
            try:
                decoded = classes[schema].FromString(message.data)
            except DecodeError:
                continue
            request = base_of(topic), message.sequence
            parts.setdefault(request, []).append((schema, decoded))
            if schema == ANSWER:
                yield _recorded(parts.pop(request), images)
    except _CutShortError as error:
        logger.warning("%s is read up to where it is cut short, still written or damaged: %s", path, error)
        return
    if not known:
        raise RecordingError(f"{path}: no message of a recording is in it")


class _CutShortError(InferentialError):
    """A file ends before its end; the text says how that was seen."""


def _messages(path: Path) -> Iterator[tuple[str, str, Message]]:
    """Yields the messages of a file, each with its topic and the name of its schema."""
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
        if not _MAGIC.startswith(magic):
            raise RecordingError(f"{path}: not an MCAP file")
        file.seek(0)
        records = iter(StreamReader(file, validate_crcs=True).records)
        while True:
            try:
                record = next(records, None)
            except Exception as error:  # a dozen types, of the reader and of what decompresses
                raise _CutShortError(str(error) or type(error).__name__) from error
            if record is None:
                return
            if isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel):
                channels[record.id] = record.topic, schemas.get(record.schema_id, "")
            elif isinstance(record, Message) and record.channel_id in channels:
                yield *channels[record.channel_id], record


def _recorded(parts: list[tuple[str, Any]], as_what: Literal["pixels", "encoded"]) -> Recorded:
    answer = next(message for schema, message in parts if schema == ANSWER)
    observed = next((message for schema, message in parts if schema == OBSERVATION), None)
    images = {message.frame_id: message for schema, message in parts if schema in (IMAGE, RAW_IMAGE)}
    server_ns = int(answer.server_ms * 1e6)
    received_ns = answer.timestamp.ToNanoseconds() - server_ns
    found = Recorded(
        answer.client_id, answer.client_type, answer.model_id, answer.session, answer.request_id, received_ns
    )
    found.end = answer.end
    found.fields = {name: getattr(answer, name) for name in _ENDED}
    if answer.end == "answered":
        found.answer = _values(answer)
        found.answer.pop(STRUCTURE_KEY, None)
    if observed is not None:
        found.received_ns = observed.timestamp.ToNanoseconds()
        found.fields |= {name: getattr(observed, name) for name in _SENT}
        found.observation = _values(observed)
        found.structure = found.observation.pop(STRUCTURE_KEY, "")
        for image in observed.images:
            if image.key in images and (as_what == "encoded" or image.key not in found.observation):
                found.observation[image.key] = _image(image, images[image.key], as_what)
    return found


def _image(what: Any, message: Any, as_what: Literal["pixels", "encoded"]) -> Any:
    """Returns an image as asked for; depth, which is not compressed, as the model saw it in any case."""
    shape = tuple(what.shape)
    if isinstance(message, _RawImage):
        return values_of(message.data, message.encoding, named_dtype(what.dtype), shape)
    image = EncodedImage(shape, what.dtype, message.data)
    if as_what == "encoded" and what.dtype != "uint16":
        return image
    try:
        return image.pixels()
    except ValueError:  # of a request that was refused for it
        return image


def _values(message: Any) -> dict[str, Any]:
    values: dict[str, Any] = {text.key: text.value for text in message.texts}
    for array in message.arrays:
        values[array.key] = np.frombuffer(array.data, named_dtype(array.dtype)).reshape(tuple(array.shape)).copy()
    return values
