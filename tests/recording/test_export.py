"""`inferential export`: recordings of a real server as a LeRobotDataset, read by pyarrow, PyAV and LeRobot's reader."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("av")
pytest.importorskip("mcap")
pytest.importorskip("pyarrow")

import av
import pyarrow.parquet as pq
from tests.recording.test_recorder import ask, files, recording

from inferential import AsyncConnection, Server
from inferential.cli.app import run
from inferential.cli.errors import CliError

STEPS = 12
INDEXES = {"timestamp", "frame_index", "episode_index", "index", "task_index"}


def picture(step: int) -> Any:
    pixels = np.full((48, 64, 3), 40, np.uint8)
    pixels[:, : 4 * step + 4] = 200
    return pixels


async def drive(server: Server, name: str) -> None:
    """Asks STEPS times in each of two sessions."""
    for session in range(2):
        async with AsyncConnection(server.address, name, "arm") as connection:
            model = connection.model("pi0", queue="all", latency_budget_ms=60_000.0)
            for step in range(STEPS):
                state = np.arange(7, dtype=np.float32) + step
                values = {"state": state, "camera/front": picture(step), "prompt": f"pick {session}"}
                assert await model.infer(60_000, **values) is not None


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of two robots with two sessions each."""
    folder = tmp_path_factory.mktemp("recorded")

    async def record() -> None:
        async with recording(folder) as (server, _):
            await asyncio.gather(drive(server, "arm-01"), drive(server, "arm-02"))

    asyncio.run(record())
    (path,) = files(folder)
    return path


def export(recorded: Path, folder: Path, *options: str) -> dict[str, Any]:
    """Exports at 1,000 Hz, so that every request is a step, and returns what info.json says."""
    assert not run(["export", str(recorded), "--lerobot", str(folder), "--fps", "1000", "--pause-s", "60", *options])
    found: dict[str, Any] = json.loads((folder / "meta/info.json").read_text())
    return found


def table(path: Path) -> Any:
    return pq.read_table(path)


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


@pytest.mark.parametrize("images", ["video", "png"])
def test_a_dataset_keeps_the_rules_of_its_format(images: str, recorded: Path, tmp_path: Path) -> None:
    info = export(recorded, tmp_path / "set", "--images", images)
    rows = table(tmp_path / "set" / info["data_path"].format(chunk_index=0, file_index=0))
    episodes = table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    tasks = table(tmp_path / "set/meta/tasks.parquet")
    features = info["features"]
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())

    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_tasks"], info["robot_type"]) == (4, 2, "arm")
    assert info["total_frames"] == rows.num_rows == sum(episode["length"] for episode in episodes)
    kind = {"video": "video", "png": "image"}[images]
    assert features["observation.images.front"]["dtype"] == kind
    in_table = {name for name, feature in features.items() if feature["dtype"] != "video"}
    assert set(rows.column_names) == in_table
    assert set(features) - INDEXES == {"observation.images.front", "observation.state", "action"}
    assert set(stats) == set(features)
    assert rows["index"].to_pylist() == list(range(rows.num_rows))
    assert set(tasks["task"].to_pylist()) == {"pick 0", "pick 1"}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    start = 0
    for number, episode in enumerate(episodes):
        length = episode["length"]
        part = rows.slice(start, length).to_pydict()
        assert (episode["episode_index"], episode["dataset_from_index"]) == (number, start)
        assert episode["dataset_to_index"] == start + length
        assert part["episode_index"] == [number] * length
        assert part["frame_index"] == list(range(length))
        np.testing.assert_allclose(part["timestamp"], np.arange(length) / info["fps"], atol=1e-4)
        assert [tasks["task"][index].as_py() for index in part["task_index"]] == episode["tasks"] * length
        np.testing.assert_array_equal(np.array(part["action"]), np.array(part["observation.state"]) + 1)
        assert episode["stats/observation.state/max"] == np.max(part["observation.state"], axis=0).tolist()
        start += length


def test_videos_show_each_step_what_was_seen(recorded: Path, tmp_path: Path) -> None:
    info = export(recorded, tmp_path / "set", "--images", "video")
    rows = table(tmp_path / "set/data/chunk-000/file-000.parquet")
    for episode in table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist():
        place = {name: episode[f"videos/observation.images.front/{name}"] for name in ("chunk_index", "file_index")}
        path = info["video_path"].format(video_key="observation.images.front", **place)
        seen = frames_of(tmp_path / "set" / path)
        assert len(seen) == episode["length"]
        states = rows.slice(episode["dataset_from_index"], episode["length"])["observation.state"].to_pylist()
        for frame, state in zip(seen, states, strict=True):
            assert np.abs(frame.astype(int) - picture(int(state[0]))).mean() < 8


def test_png_images_are_those_that_were_sent(recorded: Path, tmp_path: Path) -> None:
    export(recorded, tmp_path / "set", "--images", "png", "--robot", "arm-02", "--model", "pi0")
    rows = table(tmp_path / "set/data/chunk-000/file-000.parquet").to_pydict()
    assert set(rows["episode_index"]) == {0, 1}
    for image, state in zip(rows["observation.images.front"], rows["observation.state"], strict=True):
        with PIL.Image.open(io.BytesIO(image["bytes"])) as seen:
            np.testing.assert_array_equal(np.array(seen), picture(int(state[0])))


def test_the_usual_rate_of_the_robots_is_the_datasets(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["export", str(recorded), "--lerobot", str(tmp_path / "set"), "--images", "png", "--json"])
    figures = json.loads(capsys.readouterr().out)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert figures["fps"] == info["fps"] >= 1
    assert figures["episodes"] == 4
    assert figures["features"]["action"] == {"from": ["actions"], "dtype": "float32", "shape": [7]}
    assert figures["left_out"] == {"note": "of the answer, and no action"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ("--robot", "leg"),
            "no answered observation is in the recordings for these robots and models; there is: arm-01 at pi0",
        ),
        (("--name", "state"), "--name: expected KEY=NAME"),
        (("--name", "state=a/b"), "--name: expected KEY=NAME with a name without slashes"),
    ],
)
def test_mistakes_are_explained_and_leave_nothing_behind(
    options: tuple[str, ...], problem: str, recorded: Path, tmp_path: Path
) -> None:
    with pytest.raises(CliError, match=problem):
        run(["export", str(recorded), "--lerobot", str(tmp_path / "set"), *options])
    assert list(tmp_path.iterdir()) == []


def test_recordings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mcap").write_text("no recording")
    problems = {
        "empty": r"empty: no recording \(\*\.mcap\) is in this folder",
        "none.mcap": r"none\.mcap: No such file or directory",
        "text.mcap": r"text\.mcap",
        "failing.mcap": r"failing\.mcap: Input/output error",
    }
    if Path("/proc/self/mem").exists():  # reading its beginning fails as on a broken disk
        (tmp_path / "failing.mcap").symlink_to("/proc/self/mem")
    else:
        del problems["failing.mcap"]
    for name, problem in problems.items():
        with pytest.raises(CliError, match=problem):
            run(["export", str(tmp_path / name), "--lerobot", str(tmp_path / "set")])
        assert not (tmp_path / "set").exists()


def test_a_dataset_that_is_there_stays(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine").write_text("x")
    with pytest.raises(CliError, match="set is there already; name a new folder"):
        run(["export", str(recorded), "--lerobot", str(tmp_path / "set")])
    assert (tmp_path / "set/mine").read_text() == "x"


async def test_an_image_of_odd_sides_and_one_channel_is_a_video_too(tmp_path: Path) -> None:
    async with recording(tmp_path / "recorded") as (server, _):
        await ask(server, camera=np.full((33, 41, 1), 90, np.uint8))
    (path,) = files(tmp_path / "recorded")
    info = await asyncio.to_thread(export, path, tmp_path / "set", "--images", "video")
    assert info["features"]["observation.images.camera"]["shape"] == [34, 42, 3]
    seen = frames_of(tmp_path / "set/videos/observation.images.camera/chunk-000/file-000.mp4")
    assert {frame.shape for frame in seen} == {(34, 42, 3)}
    assert abs(float(np.mean(seen[0])) - 90) < 4


async def test_pictures_of_any_form_are_pictures_and_so_is_depth(tmp_path: Path) -> None:
    pixels = picture(3)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    depth = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    metres = np.where(depth % 7, depth / np.float32(1000), np.inf).astype(np.float32)
    values = {
        "camera": np.moveaxis(pixels / np.float32(255), -1, 0)[None].astype(np.float32),
        "camera/file": np.frombuffer(file.getvalue(), np.uint8),
        "camera/grey": pixels[..., 0][None],
        "depth": depth,
        "depth_m": metres[None],
    }
    async with recording(tmp_path / "recorded") as (server, _):
        await ask(server, **values)
    (path,) = files(tmp_path / "recorded")
    info = await asyncio.to_thread(export, path, tmp_path / "set", "--images", "png")
    rows = table(tmp_path / "set/data/chunk-000/file-000.parquet").to_pydict()
    for name in ("camera", "file", "grey"):
        assert info["features"][f"observation.images.{name}"]["shape"] == [48, 64, 3]
        with PIL.Image.open(io.BytesIO(rows[f"observation.images.{name}"][0]["bytes"])) as seen:
            np.testing.assert_array_equal(np.array(seen), pixels)
    for name, sent, unit in (("depth", depth, "mm"), ("depth_m", metres, "m")):
        feature = info["features"][f"observation.images.{name}"]
        assert (feature["dtype"], feature["shape"]) == ("image", [48, 64, 1])
        assert feature["info"] == {"is_depth_map": True, "depth_unit": unit}
        with PIL.Image.open(io.BytesIO(rows[f"observation.images.{name}"][0]["bytes"])) as seen:
            np.testing.assert_array_equal(np.array(seen), sent)
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())["observation.images.depth_m"]
    assert np.shape(stats["mean"]) == (1, 1, 1)
    assert 0.9 < stats["mean"][0][0][0] < 2.1


READ = """
import sys
from ledataset.datasets.lerobot_dataset import LeRobotDataset
found = LeRobotDataset("local/set", root=sys.argv[1], video_backend="pyav", delta_timestamps={"action": [0, 0.001]})
item = found[len(found) - 1]
assert found.num_episodes == 4, found.num_episodes
assert tuple(item["observation.images.front"].shape) == (3, 48, 64)
assert tuple(item["action"].shape) == (2, 7) and item["action_is_pad"].tolist() == [False, True]
assert item["task"] == "pick 1"
assert (item["action"][0] == item["observation.state"] + 1).all()
"""


@pytest.mark.skipif("LEDATASET_PYTHON" not in os.environ, reason="LEDATASET_PYTHON: a Python with lerobot-dataset")
@pytest.mark.parametrize("images", ["video", "png"])
def test_lerobots_own_reader_reads_it(images: str, recorded: Path, tmp_path: Path) -> None:
    export(recorded, tmp_path / "set", "--images", images)
    command = [os.environ["LEDATASET_PYTHON"], "-c", READ, str(tmp_path / "set")]
    subprocess.run(command, check=True, env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)})
