"""Writes LeRobotDataset v3.0: tables of frames, episodes and tasks as Parquet, images as video or PNG within the table.

The format is that of https://huggingface.co/docs/lerobot/lerobot-dataset-v3, as lerobot 0.4 to 0.6 write and read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inferential.recording.dataset import pictures, statistics
from inferential.recording.dataset.plan import TASKS, DatasetError, Episode, Feature, Plan, first_action, unreadable
from inferential.recording.reading import EncodedImage, Recorded

_CHUNK_FILES = 1000  # files of a folder
_DATA_MB, _VIDEO_MB = 100, 200
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
_STATED_IMAGES = 100  # of an episode, at most, that count in its statistics
_INDEXES: Final = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


class Frame(NamedTuple):
    """One row of the dataset.

    Attributes:
        arrays: by the feature's name.
        images: pixels of shape (H, W, 3), by the feature's name.
        depths: of shape (H, W), by the feature's name.
        task: what the robot was to do.
    """

    arrays: dict[str, Any]
    images: dict[str, Any]
    depths: dict[str, Any]
    task: str


def frame_of(one: Recorded, features: Iterable[Feature], task: str | None) -> Frame:
    """Returns the frame that a request is.

    Args:
        one: the request, with its images encoded.
        features: those of the plan.
        task: for observations that tell none; None: the model's id.

    Raises:
        DatasetError: an image cannot be decoded.
    """
    assert one.observation is not None
    assert one.answer is not None
    arrays, images, depths = {}, {}, {}
    for feature in features:
        if feature.kind == "image":
            encoded = one.observation[feature.keys[0]]
            assert isinstance(encoded, EncodedImage)
            try:
                images[feature.name] = pictures.to_rgb(encoded.picture())
            except (OSError, ValueError) as error:  # what Pillow raises
                raise DatasetError(unreadable(feature.keys[0], one, error)) from error
        elif feature.kind == "depth":
            depths[feature.name] = one.observation[feature.keys[0]].astype(feature.dtype).reshape(feature.shape[:2])
        elif feature.name == "action":
            action = np.concatenate([first_action(one.answer[key]) for key in feature.keys])
            arrays[feature.name] = action.astype(feature.dtype)
        else:
            arrays[feature.name] = one.observation[feature.keys[0]].astype(feature.dtype).reshape(feature.shape)
    given = next((one.observation[key] for key in TASKS if one.observation.get(key)), None)
    return Frame(arrays, images, depths, str(given or task or one.model_id))


class DatasetWriter:
    """Writes a dataset, one episode after another; `finish` makes it readable.

    Args:
        folder: to write into; it is there and empty.
        plan: features, rate, and the episodes that will come.
        codec: of videos, as `pictures.find_codec` gives it; None: images as PNG.
    """

    def __init__(self, folder: Path, plan: Plan, codec: str | None) -> None:
        self._folder, self._plan, self._codec = folder, plan, codec
        self._arrays = [feature for feature in plan.features if feature.kind == "array"]
        self._images = [feature for feature in plan.features if feature.kind == "image"]
        self._depths = [feature for feature in plan.features if feature.kind == "depth"]
        self._schema = _schema(plan, self._inline_images())
        self._data: pq.ParquetWriter | None = None
        self._data_path = Path()
        self._files = 0
        self._rows: list[dict[str, Any]] = []  # of episodes
        self._tasks: dict[str, int] = {}
        self._frames = 0
        self._columns: dict[str, list[Any]] = {}  # of all episodes, for the statistics of the whole
        self._levels: dict[str, list[statistics.Levels]] = {feature.name: [] for feature in self._images}

    def add(self, episode: Episode, frames: Iterable[Frame], advance: Callable[[], None] = lambda: None) -> None:
        """Writes an episode.

        Args:
            episode: of the plan.
            frames: one for each of its steps.
            advance: called after each frame.
        """
        number, length = len(self._rows), len(episode.steps)
        columns: dict[str, list[Any]] = {feature.name: [] for feature in self._arrays}
        inline: dict[str, list[dict[str, Any]]] = {feature.name: [] for feature in self._inline_images()}
        levels = {feature.name: statistics.Levels() for feature in self._images}
        samples: dict[str, list[Any]] = {feature.name: [] for feature in self._depths}
        tasks: list[int] = []
        stride = -(-length // _STATED_IMAGES)
        with _Videos(self._video_paths(number), self._codec, self._plan) as videos:
            for step, frame in enumerate(frames):
                tasks.append(self._tasks.setdefault(frame.task, len(self._tasks)))
                for name, value in frame.arrays.items():
                    columns[name].append(value)
                for name, pixels in frame.images.items():
                    if step % stride == 0:
                        levels[name].add(pixels)
                    if name in inline:
                        inline[name].append({"bytes": pictures.to_png(pixels), "path": f"frame-{step:06d}.png"})
                    else:
                        videos.add(name, pixels)
                for name, depth in frame.depths.items():
                    if step % stride == 0:
                        samples[name].append(statistics.sampled(depth))
                    inline[name].append({"bytes": pictures.to_tiff(depth), "path": f"frame-{step:06d}.tiff"})
                advance()
        rows = {name: np.stack(values) for name, values in columns.items()} | self._index_columns(number, tasks)
        self._write_rows(rows, inline)
        counted = {name: statistics.counted(values) for name, values in rows.items()}
        counted |= {name: np.concatenate(parts) for name, parts in samples.items()}
        self._rows.append(self._episode_row(number, counted, levels, tasks))
        self._frames += length
        for name, values in counted.items():
            self._columns.setdefault(name, []).append(values)
        for name, seen in levels.items():
            self._levels[name].append(seen)

    def finish(self) -> None:
        """Writes what a reader looks at first; the dataset is whole then."""
        if self._data is not None:
            self._data.close()
        meta = self._folder / "meta"
        (self._folder / _EPISODES_PATH).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self._rows), self._folder / _EPISODES_PATH)
        pq.write_table(_tasks_table(list(self._tasks)), meta / "tasks.parquet")
        whole = {name: self._stated(np.concatenate(parts), self._frames) for name, parts in self._columns.items()}
        whole |= {name: statistics.Levels.sum_of(parts).statistics() for name, parts in self._levels.items()}
        stats = {
            name: {one: value.tolist() for one, value in sorted(found.items())} for name, found in sorted(whole.items())
        }
        (meta / "stats.json").write_text(json.dumps(stats, indent=4))
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4))

    def _inline_images(self) -> list[Feature]:
        return self._depths if self._codec else [*self._images, *self._depths]

    def _video_paths(self, number: int) -> dict[str, Path]:
        """Returns where the videos of an episode go: each has files of its own."""
        if self._codec is None:
            return {}
        return {
            feature.name: self._folder / _VIDEO_PATH.format(video_key=feature.name, **_place(number))
            for feature in self._images
        }

    def _index_columns(self, number: int, tasks: list[int]) -> dict[str, Any]:
        steps = np.arange(len(tasks))
        found = {
            "timestamp": steps / self._plan.fps,
            "frame_index": steps,
            "episode_index": np.full(len(tasks), number),
            "index": steps + self._frames,
            "task_index": np.array(tasks),
        }
        return {name: found[name].astype(dtype) for name, dtype in _INDEXES.items()}

    def _write_rows(self, rows: dict[str, Any], inline: dict[str, list[dict[str, Any]]]) -> None:
        """Appends an episode's rows to the file of the moment; a new one from a size on."""
        if self._data is not None and self._data_path.stat().st_size > _DATA_MB * 1_000_000:
            self._data.close()
            self._data = None
            self._files += 1
        if self._data is None:
            self._data_path = self._folder / _DATA_PATH.format(**_place(self._files))
            self._data_path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(self._data_path, self._schema)
        columns = [
            pa.array(inline[field.name], field.type) if field.name in inline else _column(rows[field.name], field.type)
            for field in self._schema
        ]
        self._data.write_table(pa.table(columns, schema=self._schema))

    def _episode_row(
        self, number: int, counted: dict[str, Any], levels: dict[str, statistics.Levels], tasks: list[int]
    ) -> dict[str, Any]:
        names = list(self._tasks)
        data = _place(self._files)
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [names[task] for task in dict.fromkeys(tasks)],
            "length": len(tasks),
            "data/chunk_index": data["chunk_index"],
            "data/file_index": data["file_index"],
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + len(tasks),
        }
        for key in self._video_paths(number):
            row |= {f"videos/{key}/{name}": value for name, value in _place(number).items()}
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": len(tasks) / self._plan.fps}
        found = {name: self._stated(values, len(tasks)) for name, values in counted.items()}
        found |= {name: seen.statistics() for name, seen in levels.items()}
        for name, stats in found.items():
            row |= {f"stats/{name}/{one}": np.atleast_1d(value).tolist() for one, value in stats.items()}
        return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}

    @staticmethod
    def _stated(counted: Any, frames: int) -> dict[str, Any]:
        return statistics.of_rows(counted) | {"count": np.array([frames])}

    def _info(self) -> dict[str, Any]:
        plan = self._plan
        features: dict[str, dict[str, Any]] = {}
        for feature in plan.features:
            described: dict[str, Any] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": _names(feature)}
            if feature.kind == "image":
                described["dtype"] = "video" if self._codec else "image"
                if self._codec:
                    shape = pictures.even(feature.shape)
                    described |= {"shape": list(shape), "info": pictures.describe(self._codec, plan.fps, shape)}
            elif feature.kind == "depth":  # as LeRobot 0.6 has it
                info = {"is_depth_map": True, "depth_unit": "mm" if feature.dtype == "uint16" else "m"}
                described |= {"dtype": "image", "info": info}
            features[feature.name] = described
        features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in _INDEXES.items()}
        return {
            "codebase_version": "v3.0",
            "robot_type": ", ".join(sorted({episode.client_type for episode in plan.episodes} - {""})) or None,
            "total_episodes": len(self._rows),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK_FILES,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "fps": plan.fps,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": _DATA_PATH,
            "video_path": _VIDEO_PATH if self._codec and self._images else None,
            "features": features,
        }


class _Videos:
    """The videos of one episode."""

    def __init__(self, paths: dict[str, Path], codec: str | None, plan: Plan) -> None:
        shapes = {feature.name: pictures.even(feature.shape) for feature in plan.features if feature.kind == "image"}
        self._open: dict[str, pictures.Video] = {}
        for name, path in paths.items():
            assert codec is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[name] = pictures.Video(path, codec, plan.fps, shapes[name])

    def add(self, name: str, pixels: Any) -> None:
        self._open[name].add(pixels)

    def __enter__(self) -> _Videos:
        return self

    def __exit__(self, *error: object) -> None:
        for video in self._open.values():
            video.__exit__(*error)


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // _CHUNK_FILES, "file_index": number % _CHUNK_FILES}


def _names(feature: Feature) -> list[str] | None:
    if feature.kind in ("image", "depth"):
        return ["height", "width", "channels"]
    if len(feature.shape) > 1:
        return None
    short = feature.name.rpartition(".")[2]
    return [f"{short}_{place}" for place in range(feature.shape[0])]


def _column(values: Any, kind: Any) -> Any:
    """Returns an array of shape (frames, ...) as a column; one of (frames, 1) as one of numbers."""
    if not pa.types.is_nested(kind):
        return pa.array(values.reshape(-1), kind)
    column = pa.array(values.reshape(-1))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(column, values.shape[1])
    for size in reversed(values.shape[1:]):
        column = pa.ListArray.from_arrays(np.arange(0, len(column) + 1, size, dtype=np.int32), column)
    return column


def _schema(plan: Plan, inline: list[Feature]) -> Any:
    """Returns the table's columns, with what the package `datasets` reads of them."""
    fields: list[Any] = []
    described: dict[str, dict[str, Any]] = {}
    for feature in plan.features:
        if feature.kind in ("image", "depth"):
            if feature in inline:
                fields.append(pa.field(feature.name, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
                described[feature.name] = {"_type": "Image"}
            continue
        kind, value = pa.from_numpy_dtype(feature.dtype), {"dtype": feature.dtype, "_type": "Value"}
        if feature.shape == (1,):
            fields.append(pa.field(feature.name, kind))
            described[feature.name] = value
        elif len(feature.shape) == 1:
            fields.append(pa.field(feature.name, pa.list_(kind, feature.shape[0])))
            described[feature.name] = {"feature": value, "length": feature.shape[0], "_type": "Sequence"}
        else:
            for _ in feature.shape:
                kind = pa.list_(kind)
            fields.append(pa.field(feature.name, kind))
            described[feature.name] = {
                "shape": list(feature.shape),
                "dtype": feature.dtype,
                "_type": f"Array{len(feature.shape)}D",
            }
    for name, dtype in _INDEXES.items():
        fields.append(pa.field(name, pa.from_numpy_dtype(dtype)))
        described[name] = {"dtype": dtype, "_type": "Value"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": described}})})


def _tasks_table(tasks: list[str]) -> Any:
    """Returns the table of tasks, whose index is the text, in pandas' words."""
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column | {"metadata": None} for column in columns],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": None,
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(pandas)})
    return pa.table([list(range(len(tasks))), tasks], schema=schema)
