"""Recordings of a real server, read by the package `mcap` as it is and read back by ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mcap.reader import make_reader

from inferential import AsyncConnection, InferenceError, LocalDispatcher, Server
from inferential.client import Jpeg
from inferential.config import InferentialConfig
from inferential.config.recording import RecordingConfig
from inferential.recording.reading import Recorded, RecordingError, read_recording
from inferential.recording.recorder import Recorder

STATE = np.arange(7, dtype=np.float32)
CAMERA = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def policy(observation: dict[str, Any]) -> dict[str, Any]:
    if observation.get("prompt") == "fail":
        raise ValueError("no cup")
    state = observation["state"]
    state += 1  # arrays are the model's own; what is recorded is what the robot sent
    return {"actions": np.stack([state, state]), "note": "ok"}


@asynccontextmanager
async def recording(
    folder: Path, served: Mapping[str, Any] | None = None, **fields: Any
) -> AsyncIterator[tuple[Server, Recorder]]:
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
    dispatcher = LocalDispatcher(served or {"pi0": policy, "other": policy})
    async with (
        Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server,
        Recorder(server, RecordingConfig(path=str(folder), **fields)) as recorder,
    ):
        yield server, recorder


async def ask(server: Server, name: str = "arm-01", model_id: str = "pi0", times: int = 3, **values: Any) -> None:
    values = {"state": STATE, "camera": CAMERA, "prompt": "pick", **values}
    async with AsyncConnection(server.address, name, "arm") as connection:
        model = connection.model(model_id, queue="all", latency_budget_ms=60_000.0)
        for _ in range(times):
            try:
                await model.infer(60_000, **values)
            except InferenceError:
                continue


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mcap"))


def recorded(folder: Path) -> list[Recorded]:
    return [one for path in files(folder) for one in read_recording(path)]


async def test_what_was_sent_and_answered_is_read_back(tmp_path: Path) -> None:
    async with recording(tmp_path) as (server, _):
        await ask(server)
    found = recorded(tmp_path)
    assert len(found) == 3
    for one in found:
        assert (one.client_id, one.client_type, one.model_id, one.end) == ("arm-01", "arm", "pi0", "answered")
        assert one.observation is not None
        assert one.answer is not None
        np.testing.assert_array_equal(one.observation["state"], STATE)
        np.testing.assert_array_equal(one.observation["camera"], CAMERA)
        assert one.observation["prompt"] == "pick"
        np.testing.assert_array_equal(one.answer["actions"], np.stack([STATE + 1, STATE + 1]))
        assert one.answer["note"] == "ok"
        assert one.fields["server_ms"] >= one.fields["inference_ms"] >= 0
        assert one.fields["latency_budget_ms"] == 60_000
        assert not one.fields["late"]
    assert len({one.session for one in found}) == 1


async def test_a_file_explains_itself_to_any_reader_of_mcap_and_protobuf(tmp_path: Path) -> None:
    async with recording(tmp_path) as (server, _):
        await ask(server, times=1)
    (path,) = files(tmp_path)
    with path.open("rb") as file:
        seen = {}
        for schema, channel, message in make_reader(file).iter_messages():
            assert schema is not None
            pool = descriptor_pool.DescriptorPool()
            for one in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
                pool.Add(one)
            kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
            seen[channel.topic] = kind.FromString(message.data)
    assert set(seen) == {
        "/robots/arm-01/pi0/observation",
        "/robots/arm-01/pi0/image/camera",
        "/robots/arm-01/pi0/answer",
    }
    image: Any = seen["/robots/arm-01/pi0/image/camera"]
    assert image.DESCRIPTOR.full_name == "foxglove.CompressedImage"
    assert (image.format, image.data[:4], image.frame_id) == ("png", b"\x89PNG", "camera")
    answer: Any = seen["/robots/arm-01/pi0/answer"]
    assert list(answer.arrays[0].values) == [*(STATE + 1), *(STATE + 1)]


@pytest.mark.parametrize(("images", "form"), [("keep", "png"), ("jpeg:70", "jpeg"), ("none", "")])
async def test_images_are_recorded_as_asked(images: str, form: str, tmp_path: Path) -> None:
    async with recording(tmp_path, images=images) as (server, _):
        await ask(server, times=1)
        await ask(server, times=1, camera=Jpeg(CAMERA))
    first, second = recorded(tmp_path)
    for one in (first, second):
        assert one.observation is not None
        assert ("camera" in one.observation) == bool(form)
    with files(tmp_path)[0].open("rb") as file:
        kinds = [
            b"\xff\xd8" in message.data[:80] or b"JFIF" in message.data[:120]
            for schema, _, message in make_reader(file).iter_messages()
            if schema is not None and schema.name == "foxglove.CompressedImage"
        ]
    assert kinds == {"keep": [False, True], "jpeg:70": [True, True], "none": []}[images]


async def test_only_the_robots_and_models_that_are_named_are_recorded(tmp_path: Path) -> None:
    async with recording(tmp_path, clients=["arm-01"], models=["pi0"]) as (server, _):
        await ask(server, "arm-01", "pi0", 1)
        await ask(server, "arm-02", "pi0", 1)
        await ask(server, "arm-01", "other", 1)
    assert [(one.client_id, one.model_id) for one in recorded(tmp_path)] == [("arm-01", "pi0")]


@pytest.mark.parametrize(
    ("only", "ends"), [("all", ["answered", "model_failed"]), ("failed", ["model_failed"]), ("late", [])]
)
async def test_only_late_or_failed_requests_may_be_recorded(only: str, ends: list[str], tmp_path: Path) -> None:
    async with recording(tmp_path, only=only) as (server, _):
        await ask(server, times=1)
        await ask(server, times=1, prompt="fail")
    found = recorded(tmp_path) if ends else []
    assert [one.end for one in found] == ends
    if ends:
        assert found[-1].answer is None
        assert found[-1].observation is not None
        assert "no cup" in found[-1].fields["reason"]


async def read_late(server: Server, late: int, times: int) -> None:
    """Asks so many times, and reads the first so many answers after their deadline."""
    async with AsyncConnection(server.address, "arm-01", "arm") as connection:
        model = connection.model("pi0", latency_budget_ms=1500.0)
        for turn in range(times):
            await model.observe(state=STATE + turn, camera=CAMERA)
            await asyncio.sleep(1.8 if turn < late else 0.0)  # the kernel measures it, whose clock no test moves
            assert await model.get_result(60_000) is not None


async def test_an_answer_that_was_sent_in_time_and_used_late_is_a_late_one(tmp_path: Path) -> None:
    async with recording(tmp_path, only="late") as (server, recorder):
        await read_late(server, late=2, times=4)
        assert server.late_by_cause == {"unread": 2}
        assert recorder.sizes()["unsaid"] == 2  # of the others it is not known, or known that they were in time
    found = recorded(tmp_path)
    assert [(one.end, one.fields["late"], one.fields["late_cause"]) for one in found] == [
        ("answered", True, "unread")
    ] * 2
    for turn, one in enumerate(found):
        np.testing.assert_array_equal(one.seen()["state"], STATE + turn)
        np.testing.assert_array_equal(one.seen()["camera"], CAMERA)
    assert recorder.dropped == 0


async def test_late_answers_that_could_not_be_kept_until_they_were_used_are_counted(tmp_path: Path) -> None:
    async with recording(tmp_path, only="late", queue_mb=0.01) as (server, recorder):
        await read_late(server, late=2, times=3)
        assert recorder.sizes()["unsaid"] == 0
    assert (recorder.recorded, recorder.dropped) == (0, 2)


async def test_answers_whose_use_is_not_known_are_let_go_when_late_ones_are_no_longer_asked_for(tmp_path: Path) -> None:
    async with recording(tmp_path, only="late") as (server, recorder):
        await read_late(server, late=0, times=3)
        assert recorder.sizes()["unsaid"] == 3
        new = server.config.model_copy(deep=True)
        new.recording = RecordingConfig(path=str(tmp_path), only="failed")
        server.reconfigure(new)
        await ask(server, times=1)
        assert recorder.sizes() == {"running": 0, "unsaid": 0, "waiting": 0, "places": 0}


async def test_what_a_robot_says_of_its_last_action_is_recorded(tmp_path: Path) -> None:
    async with recording(tmp_path) as (server, _):
        await read_late(server, late=1, times=2)
    first, second = recorded(tmp_path)
    assert (first.fields["applied_id"], second.fields["applied_id"]) == (0, first.request_id)
    assert second.fields["applied_age_ms"] >= second.fields["applied_unread_ms"] > 0


async def test_what_is_recorded_changes_with_the_configuration(tmp_path: Path) -> None:
    async with recording(tmp_path) as (server, _):
        await ask(server, "arm-01", times=1)
        new = server.config.model_copy(deep=True)
        new.recording = RecordingConfig(path=str(tmp_path), clients=["arm-02"])
        server.reconfigure(new)
        await ask(server, "arm-01", times=1)
        await ask(server, "arm-02", times=1)
    assert [one.client_id for one in recorded(tmp_path)] == ["arm-01", "arm-02"]


async def test_recording_stops_and_goes_on_with_its_section(tmp_path: Path) -> None:
    section = {"path": str(tmp_path / "recordings")}
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}, "recording": section})
    assert config.recording is not None
    async with (
        Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"pi0": policy})) as server,
        Recorder(server, config.recording),
    ):
        for name, there in (("arm-01", True), ("arm-02", False), ("arm-03", True)):
            elsewhere = {"path": str(tmp_path / "elsewhere")} if there else None  # takes a restart
            server.reconfigure(InferentialConfig.model_validate({"recording": elsewhere}))
            await ask(server, name, times=1)
    assert [one.client_id for one in recorded(tmp_path / "recordings")] == ["arm-01", "arm-03"]
    assert not (tmp_path / "elsewhere").exists()


async def test_a_file_is_split_when_it_is_full_and_the_oldest_are_deleted(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 400_000, np.uint8)
    async with recording(tmp_path, split_mb=0.5, keep_gb=0.0015) as (server, recorder):
        await ask(server, times=10, noise=noise)
        dropped = recorder.dropped
    assert dropped == 0
    assert 1 < len(files(tmp_path)) < 6
    assert sum(path.stat().st_size for path in files(tmp_path)) < 3_000_000
    assert recorded(tmp_path)[-1].request_id > 0


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
async def test_a_file_that_was_cut_short_is_read_up_to_there(kept: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 100_000, np.uint8)
    async with recording(tmp_path) as (server, _):
        await ask(server, times=10, noise=noise)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    if kept > 0.4:
        assert 0 < len(recorded(tmp_path)) <= 10


def test_what_is_no_recording_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "notes.mcap"
    path.write_text("mine")
    with pytest.raises(RecordingError, match=r"notes\.mcap: not an MCAP file"):
        list(read_recording(path))


async def test_a_folder_that_cannot_be_written_is_said_once_and_serving_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.ERROR, "inferential.recording"):
        async with recording(tmp_path / "file") as (server, recorder):
            await ask(server, times=3)
            async with asyncio.timeout(60):
                while recorder.dropped < 3:  # noqa: ASYNC110 (nothing tells of it)
                    await asyncio.sleep(0.01)
            assert (recorder.recorded, recorder.dropped) == (0, 3)
            drops = server.metrics.get_stats("recording_drops")
            assert drops is not None
            assert drops.count == 3
            stats = server.metrics.get_stats("responses_served")
            assert stats is not None
            assert stats.count == 3
    assert caplog.text.count("cannot record to") == 1


async def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    async with recording(tmp_path, queue_mb=0.001) as (server, recorder):
        await ask(server, times=3)
        assert recorder.dropped == 3
        stats = server.metrics.get_stats("recording_drops")
        assert stats is not None
        assert stats.count == 3
    assert files(tmp_path) == []


@pytest.mark.parametrize("images", ["jpeg", "jpeg:0", "jpeg:101", "all", "keep:3"])
def test_images_that_cannot_be_are_refused(images: str) -> None:
    with pytest.raises(ValueError, match="expected keep, none or jpeg:QUALITY"):
        RecordingConfig(images=images)
