"""Pictures in any form that robots send them: what viewers are given, and what is read back of them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("mcap")

from mcap.reader import make_reader
from tests.recording.test_files import Requests, files_of

from inferential.proto import PNG, Observation
from inferential.proto.images import encode
from inferential.proto.tensors import EncodedImage as SentImage
from inferential.proto.tensors import pack
from inferential.recording.cameras import images_of
from inferential.recording.reading import EncodedImage, Recorded, read_recording
from inferential.recording.schemas import IMAGE, RAW_IMAGE, message_class

RANDOM = np.random.default_rng(3)
LEVELS = RANDOM.integers(0, 256, (24, 32, 3), np.uint8)
UNIT = (LEVELS / 255.0).astype(np.float32)
MILLIMETRES = RANDOM.integers(0, 5000, (24, 32), np.uint16)
METRES = (MILLIMETRES / 1000.0).astype(np.float32)


def file_of(pixels: Any, form: str) -> Any:
    file = BytesIO()
    PIL.Image.fromarray(pixels).save(file, form)
    return np.frombuffer(file.getvalue(), np.uint8)


def first(pixels: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


COLOUR = {
    "rows first": LEVELS,
    "channels first": first(LEVELS),
    "a batch of one": LEVELS[None],
    "a batch of one step, channels first": first(LEVELS)[None, None],
    "floats": UNIT,
    "floats, channels first": first(UNIT)[None],
    "half floats": UNIT.astype(np.float16),
    "double floats": LEVELS / 255.0,
    "PNG of the SDK": encode(LEVELS, PNG),
    "the bytes of a PNG": file_of(LEVELS, "png"),
}
GREY = {
    "two axes": LEVELS[..., 0],
    "a channel behind": LEVELS[..., :1],
    "a channel in front": LEVELS[..., 0][None],
    "floats with a channel": UNIT[..., :1],
}
DEPTH: dict[str, Any] = {
    "camera/depth": METRES,
    "depth_front": METRES[None, ..., None],
    "depth_half": METRES.astype(np.float16),
    "wrist": MILLIMETRES,
    "wrist_batch": MILLIMETRES[None],
    "wrist_png": encode(MILLIMETRES, PNG),
}
NONE = {
    "embedding": RANDOM.random((1, 77, 768), np.float32),
    "points": RANDOM.random((500, 3), np.float32),
    "normalised": (UNIT - 0.5) / 0.25,
    "unknown": np.full((24, 32, 3), np.nan, np.float32),
    "cameras": np.stack([LEVELS, LEVELS]),
    "history": RANDOM.random((16, 32), np.float32),
    "small": np.zeros((4, 4, 3), np.uint8),
    "bytes": np.arange(200, dtype=np.uint8),
}


def record(folder: Path, images: str = "keep", **values: Any) -> Path:
    """Records one request with these values, and returns the file."""
    observation = Observation(model_id="pi0")
    payload = bytes(pack(observation.tensors, values))
    files = files_of(folder)
    files.write(Requests().next(envelope=observation.SerializeToString(), payload=payload), images_of(images))
    files.close()
    (path,) = folder.glob("*.mcap")
    return path


def shown(path: Path) -> dict[str, Any]:
    """Returns the messages of images by key, as a viewer gets them."""
    found = {}
    with path.open("rb") as file:
        for schema, _, message in make_reader(file).iter_messages():
            assert schema is not None
            if schema.name in (IMAGE, RAW_IMAGE):
                image: Any = message_class(schema.name).FromString(message.data)
                found[image.frame_id] = image
    return found


def pixels(image: Any) -> Any:
    with PIL.Image.open(BytesIO(image.data)) as opened:
        return np.asarray(opened)


def read(path: Path) -> Recorded:
    (one,) = read_recording(path)
    return one


def assert_seen(path: Path, key: str, sent: Any) -> None:
    """Sees that the model is given again what it was given."""
    seen = read(path).seen()[key]
    sent = {"camera": LEVELS, "wrist_png": MILLIMETRES}[key] if isinstance(sent, SentImage) else sent
    assert seen.dtype == sent.dtype
    np.testing.assert_array_equal(seen, sent)


@pytest.mark.parametrize("name", COLOUR)
def test_a_colour_picture_is_shown_and_read_back_in_any_form(name: str, tmp_path: Path) -> None:
    path = record(tmp_path, camera=COLOUR[name])
    np.testing.assert_array_equal(pixels(shown(path)["camera"]), LEVELS)
    assert_seen(path, "camera", COLOUR[name])


@pytest.mark.parametrize("name", GREY)
def test_a_picture_of_one_channel_is_grey(name: str, tmp_path: Path) -> None:
    path = record(tmp_path, camera=GREY[name])
    np.testing.assert_array_equal(pixels(shown(path)["camera"]), LEVELS[..., 0])
    assert_seen(path, "camera", GREY[name])


@pytest.mark.parametrize("key", DEPTH)
def test_depth_is_shown_as_rows_of_numbers(key: str, tmp_path: Path) -> None:
    path = record(tmp_path, **{key: DEPTH[key]})
    image, sent = shown(path)[key], MILLIMETRES if key == "wrist_png" else DEPTH[key]
    stored = np.dtype("<u2" if sent.dtype == np.uint16 else "<f4")
    assert image.encoding == {"<u2": "16UC1", "<f4": "32FC1"}[stored.str]
    assert (image.height, image.width, image.step) == (24, 32, 32 * stored.itemsize)
    rows = np.frombuffer(image.data, stored).reshape(24, 32)
    np.testing.assert_array_equal(rows, sent.reshape(24, 32).astype(stored))
    assert_seen(path, key, DEPTH[key])


@pytest.mark.parametrize("key", NONE)
def test_other_arrays_are_no_pictures(key: str, tmp_path: Path) -> None:
    path = record(tmp_path, **{key: NONE[key]})
    assert shown(path) == {}
    assert_seen(path, key, NONE[key])


def test_floats_between_two_levels_are_read_back_whole_beside_their_picture(tmp_path: Path) -> None:
    sent = {"camera": RANDOM.random((3, 24, 32), np.float32), "depth": RANDOM.random((24, 32))}
    path = record(tmp_path, **sent, black=-0.0 * UNIT)
    for key, value in sent.items():
        assert_seen(path, key, value)
    assert np.signbit(read(path).seen()["black"]).all()
    seen = np.moveaxis(pixels(shown(path)["camera"]), -1, 0) / 255.0
    assert np.abs(seen - sent["camera"]).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("images", ["jpeg:90", "none"])
def test_floats_and_channels_in_front_are_recorded_as_asked(images: str, tmp_path: Path) -> None:
    smooth = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(1, 24, 32).repeat(3, 0)
    clear = np.concatenate([LEVELS, LEVELS[..., :1]], -1)
    one = read(record(tmp_path, images, camera=smooth, clear=clear, depth=METRES, state=np.zeros(3)))
    assert one.observation is not None
    if images == "none":
        assert set(one.observation) == {"state"}
        return
    assert one.observation["camera"].dtype == np.float32
    assert np.abs(one.observation["camera"] - smooth).max() < 0.1
    np.testing.assert_array_equal(one.observation["clear"], clear)  # which no JPEG can hold
    np.testing.assert_array_equal(one.observation["depth"], METRES)


def test_pictures_of_two_kinds_share_no_topic(tmp_path: Path) -> None:
    sent: dict[str, Any] = {"wrist/left": LEVELS, "wrist_left": MILLIMETRES}
    path = record(tmp_path, **sent)
    found = shown(path)
    np.testing.assert_array_equal(pixels(found["wrist/left"]), LEVELS)
    assert found["wrist_left"].encoding == "16UC1"
    with path.open("rb") as file:
        topics = {channel.topic for _, channel, _ in make_reader(file).iter_messages()}
    assert {"/robots/arm/pi0/image/wrist_left", "/robots/arm/pi0/depth/wrist_left"} <= topics
    for key, value in sent.items():
        assert_seen(path, key, value)


def test_a_dataset_is_given_what_a_person_sees(tmp_path: Path) -> None:
    path = record(tmp_path, chw=first(UNIT)[None], file=COLOUR["the bytes of a PNG"], depth=METRES)
    (one,) = read_recording(path, "encoded")
    assert one.observation is not None
    for key in ("chw", "file"):
        image = one.observation[key]
        assert isinstance(image, EncodedImage)
        assert image.size() == (24, 32)
        np.testing.assert_array_equal(image.picture(), LEVELS)
    np.testing.assert_array_equal(one.observation["depth"], METRES)
