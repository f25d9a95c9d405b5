"""Reading recordings back: files that are damaged, and observations as the model saw them."""

from __future__ import annotations

import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from mcap.reader import make_reader
from mcap.writer import Writer
from tests.recording.test_recorder import CAMERA, STATE, ask, files, recording

from inferential import AsyncConnection, InferenceError, LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.recording import RecordingConfig
from inferential.proto import JPEG
from inferential.proto.tensors import EncodedImage as SentImage
from inferential.recording.reading import EncodedImage, Recorded, read_recording
from inferential.recording.recorder import Recorder
from inferential.recording.schemas import NAMES, descriptor_set


async def recorded_of(folder: Path, model: Any, *observations: dict[str, Any], **fields: Any) -> list[Recorded]:
    """Returns what is read back of these observations, each asked once."""
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
    async with (
        Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"pi0": model})) as server,
        Recorder(server, RecordingConfig(path=str(folder), **fields)),
        AsyncConnection(server.address, "arm-01") as connection,
    ):
        for observation in observations:
            try:
                await connection.model("pi0", queue="all", late="serve").infer(60_000, observation=observation)
            except InferenceError:
                continue
    (path,) = files(folder)
    return list(read_recording(path))


async def test_a_nested_observation_is_read_back_as_the_model_saw_it(tmp_path: Path) -> None:
    asked: list[Any] = []

    def noting(observation: dict[str, Any]) -> dict[str, Any]:
        asked.append(observation)
        return {"actions": np.zeros((2, 3)), "policy_timing": {"infer_ms": 3.5}}

    sent = {"state": {"arm": STATE, "grip": 0.5, "tags": ["a", None]}, "camera": CAMERA, "prompt": "pick"}
    (one,) = await recorded_of(tmp_path, noting, sent)
    seen: Any = one.seen()
    assert seen.keys() == asked[0].keys() == sent.keys()
    np.testing.assert_array_equal(seen["state"]["arm"], STATE)
    np.testing.assert_array_equal(seen["camera"], CAMERA)
    assert (seen["state"]["grip"], seen["state"]["tags"], seen["prompt"]) == (0.5, ["a", None], "pick")
    assert one.observation is not None
    assert set(one.observation) == {"state/arm", "state/grip", "camera", "prompt"}


async def test_arrays_without_elements_and_of_any_dtype_are_read_back(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    sent = {
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5),
        "half": np.arange(4, dtype=np.float16),
        "brain": np.arange(4).astype(ml_dtypes.bfloat16),
        "flags": np.array([True, False]),
        "large": np.array([2**63 + 1], np.uint64),
        "reversed": np.arange(6)[::-2],
    }
    (one,) = await recorded_of(tmp_path, lambda observation: {"actions": np.zeros((0,)), "again": observation}, sent)
    for found in (one.seen(), {key.removeprefix("again/"): value for key, value in (one.answer or {}).items()}):
        for key, value in sent.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)


async def test_a_broken_image_hides_nothing_else(tmp_path: Path) -> None:
    image = SentImage(b"\xff\xd8 no picture", np.dtype(np.uint8), (48, 64, 3), JPEG)
    async with recording(tmp_path) as (server, _):
        await ask(server, times=1)
        async with AsyncConnection(server.address, "arm-02") as connection:
            with pytest.raises(InferenceError, match="broken JPEG"):
                await connection.model("pi0").infer(60_000, observation={"camera": image, "state": STATE})
        await ask(server, times=1)
    (path,) = files(tmp_path)
    found = list(read_recording(path))
    assert [one.end for one in found] == ["answered", "invalid_observation", "answered"]
    assert found[1].observation is not None
    assert isinstance(found[1].observation["camera"], EncodedImage)
    np.testing.assert_array_equal(found[1].observation["state"], STATE)
    with pytest.raises(ValueError, match="broken JPEG"):
        found[1].seen()


async def test_what_was_not_recorded_is_said_where_it_is_asked_for(tmp_path: Path) -> None:
    sent = {"state": {"arm": STATE}, "camera": CAMERA}
    (one,) = await recorded_of(tmp_path, lambda observation: np.zeros(3), sent, images="none")
    with pytest.raises(ValueError, match="camera"):
        one.seen()
    with pytest.raises(ValueError, match="was not recorded"):
        Recorded("arm", "", "pi0", "", 1, 0).seen()


@pytest.mark.parametrize("damage", ["empty", "head", "middle", "bits"])
async def test_a_damaged_file_is_read_as_far_as_it_goes_and_that_is_said(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 100_000, np.uint8)
    async with recording(tmp_path) as (server, _):
        await ask(server, times=8, noise=noise)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    if damage == "bits":
        data[middle : middle + 1000] = bytes(1000)
    else:
        del data[{"empty": 0, "head": 30, "middle": middle}[damage] :]
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "inferential.recording"):
        found = list(read_recording(path))
    assert len(found) < 8
    assert bool(found) == (damage in ("middle", "bits"))
    assert f"{path} is read up to where it is cut short" in caplog.text


async def test_robots_of_one_server_and_of_another_have_sessions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1e9)  # begun in one second, or after a step of the clock
    for _ in range(2):
        async with recording(tmp_path) as (server, _):
            await ask(server, times=1)
    found = [one for path in files(tmp_path) for one in read_recording(path)]
    assert len({one.session for one in found}) == 2


async def test_requests_of_servers_whose_files_were_merged_are_kept_apart(tmp_path: Path) -> None:
    for number in range(2):
        async with recording(tmp_path / str(number)) as (server, _):
            await ask(server, f"arm-{number}", times=2, state=np.full(7, number, np.float32))
    both = [list(make_reader(BytesIO(files(tmp_path / name)[0].read_bytes())).iter_messages()) for name in ("0", "1")]
    path = tmp_path / "merged.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        ids = {name: writer.register_schema(name, "protobuf", descriptor_set()) for name in NAMES}
        channels: dict[str, int] = {}
        for pair in zip(*both, strict=True):  # by turns: while one request has not ended the other begins
            for schema, channel, message in pair:
                assert schema is not None
                if channel.topic not in channels:
                    channels[channel.topic] = writer.register_channel(channel.topic, "protobuf", ids[schema.name])
                at_ns = message.log_time
                writer.add_message(channels[channel.topic], at_ns, message.data, at_ns, message.sequence)
        writer.finish()
    found = list(read_recording(path))
    assert len(found) == 4
    for one in found:
        np.testing.assert_array_equal(one.seen()["state"], np.full(7, int(one.client_id[-1])))
