"""Decides what of recordings becomes a dataset: its episodes, their frames at a fixed rate, and its features.

An episode is one robot at one model in one session, without a pause. Robots ask at uneven times and a dataset has a
fixed rate: each step has the observation nearest to it in time.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np

from inferential.errors import InferentialError
from inferential.proto.actions import CHUNK_KEYS, PART_PREFIXES
from inferential.recording.cameras import depth_sides
from inferential.recording.reading import EncodedImage, Recorded

TASKS: Final = ("prompt", "task", "instruction", "language_instruction")
"""Texts of observations that say what the robot is to do, the first one first."""
_IMAGES = "observation.images."
_FASTEST_HZ = 1000
_MOST_AXES = 5  # Array5D of the package `datasets`
_NAMED = 10  # robots, in an error


class DatasetError(InferentialError, ValueError):
    """No dataset can be made of these recordings, or not there."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A column of the dataset.

    Attributes:
        name: as in the dataset: observation.state, observation.images.front, action.
        keys: of the observation, or of the answer for the action, whose values stand there one after another.
        kind: array, image or depth.
        dtype: as numpy names it; uint8 for images, uint16 (millimetres) or float32 (metres) for depth.
        shape: of one frame; (H, W, 3) for images, (H, W, 1) for depth.
    """

    name: str
    keys: tuple[str, ...]
    kind: Literal["array", "image", "depth"]
    dtype: str
    shape: tuple[int, ...]


@dataclass(slots=True)
class Episode:
    """What one robot did in one session without a pause.

    Attributes:
        client_id, client_type, model_id, session: whose it is.
        asked: its answered requests: when each came, in ns since 1970, and its id, in the order in which they came.
        steps: for each frame of the dataset the one of these requests that it shows.
    """

    client_id: str
    client_type: str
    model_id: str
    session: str
    asked: list[tuple[int, int]] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        """The robot, model and session."""
        return self.client_id, self.model_id, self.session


@dataclass(slots=True)
class Plan:
    """What becomes of recordings.

    Attributes:
        episodes: in the order in which they began.
        features: observations first, the action last.
        fps: frames per second.
        left_out: values that are in no feature, with the reason.
    """

    episodes: list[Episode]
    features: list[Feature]
    fps: int
    left_out: dict[str, str]

    @property
    def frames(self) -> int:
        """Of all episodes."""
        return sum(len(episode.steps) for episode in self.episodes)


def make_plan(
    recorded: Iterable[Recorded],
    *,
    models: frozenset[str] = frozenset(),
    robots: frozenset[str] = frozenset(),
    fps: int | None = None,
    pause_s: float = 1.0,
    names: dict[str, str] | None = None,
    without: frozenset[str] = frozenset(),
) -> Plan:
    """Returns the plan of a dataset.

    Args:
        recorded: the requests, with their images encoded.
        models, robots: those that take part; none: all.
        fps: frames per second of the dataset; None: the usual rate of the robots, 1 at least.
        pause_s: seconds without an observation that end an episode.
        names: what a value of the observation is called in the dataset, by its key.
        without: keys of values of the observation that the dataset is to be without.

    Raises:
        DatasetError: nothing was answered, or robots whose values do not fit one dataset are among them.
    """
    found = _Found(names or {}, without)
    for one in recorded:
        if one.observation is None or one.answer is None:
            continue
        found.asked.add((one.client_id, one.model_id))
        if (not models or one.model_id in models) and (not robots or one.client_id in robots):
            found.add(one)
    features = found.features()
    episodes = [part for episode in found.episodes.values() for part in _without_pauses(episode, pause_s)]
    episodes.sort(key=lambda episode: (episode.asked[0][0], episode.key))
    rate = fps or _usual_rate(episodes)
    for episode in episodes:
        episode.steps = _steps(episode.asked, rate)
    return Plan(episodes, list(features), rate, found.left_out)


class _Found:
    """What answered requests have, added one after another.

    Args:
        names, without: as `make_plan` takes them.

    Attributes:
        asked: robots and their models, whether they take part or not.
        episodes: with the pauses in them, by robot, model and session.
        left_out: values that are in no feature, with the reason.
    """

    def __init__(self, names: dict[str, str], without: frozenset[str]) -> None:
        self.asked: set[tuple[str, str]] = set()
        self.episodes: dict[tuple[str, str, str], Episode] = {}
        self.left_out: dict[str, str] = {}
        self._names, self._without = names, without
        self._shapes: dict[tuple[Feature, ...], str] = {}  # and who has them
        self._empty: list[dict[str, Any]] = []  # answers

    def add(self, one: Recorded) -> None:
        """Adds a request that takes part."""
        assert one.answer is not None
        if not _arrays(one.answer):
            self._empty.append(one.answer)
            return
        features = _features(one, self._names, self._without, self.left_out)
        self._shapes.setdefault(features, f"{one.client_id} at {one.model_id}")
        episode = Episode(one.client_id, one.client_type, one.model_id, one.session)
        self.episodes.setdefault(episode.key, episode).asked.append((one.received_ns, one.request_id))

    def features(self) -> tuple[Feature, ...]:
        """Returns those that all have.

        Raises:
            DatasetError: as `make_plan`.
        """
        if self._empty and not self._shapes:
            _action(self._empty[0], self.left_out)
        if self._empty:
            self.left_out["requests"] = f"{len(self._empty)} whose answer has no element"
        if not self._shapes:
            there = ", ".join(f"{robot} at {model}" for robot, model in sorted(self.asked)[:_NAMED])
            others = f" for these robots and models; there is: {there}" if self.asked else ""
            raise DatasetError(f"no answered observation is in the recordings{others}")
        if unknown := sorted(self._without - self.left_out.keys()):
            raise DatasetError(f"--without {unknown[0]}: no observation has it")
        if len(self._shapes) > 1:
            raise DatasetError(_unlike(self._shapes))
        (features,) = self._shapes
        return features


def _features(
    one: Recorded, names: dict[str, str], without: frozenset[str], left_out: dict[str, str]
) -> tuple[Feature, ...]:
    """Returns the features of a request, and notes what is in none."""
    assert one.observation is not None
    assert one.answer is not None
    arrays: list[str] = []
    found: list[Feature] = []
    for key, value in sorted(one.observation.items()):
        if key in without:
            left_out[key] = "as asked"
        elif isinstance(value, str):
            if key not in TASKS:
                left_out[key] = "a text that is no task"
        elif isinstance(value, EncodedImage):
            try:
                found.append(Feature(names.get(key) or _image_name(key), (key,), "image", "uint8", (*value.size(), 3)))
            except ValueError as error:
                raise DatasetError(unreadable(key, one, error)) from error
        elif (sides := depth_sides(key, value.dtype, value.shape)) is not None:
            dtype = "uint16" if value.dtype == np.uint16 else "float32"
            found.append(Feature(names.get(key) or _image_name(key), (key,), "depth", dtype, (*sides, 1)))
        elif not value.size:
            left_out[key] = "an array without elements"
        else:
            arrays.append(key)
    for key in arrays:
        alone = len(arrays) == 1 and not key.startswith("observation.")
        name = names.get(key) or (
            "observation.state" if alone else f"observation.{_plain(key.removeprefix('observation.'))}"
        )
        value = one.observation[key]
        found.append(Feature(name, (key,), "array", _dtype(value), _shape(value)))
    action = _action(one.answer, left_out)
    twice = [name for name, times in Counter(feature.name for feature in (*found, action)).items() if times > 1]
    if twice:
        raise DatasetError(f"two values would be called {twice[0]!r}: name one otherwise (--name KEY=NAME)")
    return (*sorted(found, key=lambda feature: feature.name), action)


def unreadable(key: str, one: Recorded, error: Exception) -> str:
    """Returns the text of an error for a picture that cannot be decoded."""
    return f"{key} of {one.client_id}, request {one.request_id}: {error} (leave it out with --without {key})"


def _action(answer: dict[str, Any], left_out: dict[str, str]) -> Feature:
    """Returns the feature of the actions, which may stand in several arrays of the answer."""
    arrays = _arrays(answer)
    keys = [key for key in arrays if key in CHUNK_KEYS or key.startswith(PART_PREFIXES)]
    if not keys and len(arrays) == 1:
        keys = list(arrays)
    left_out |= {key: "of the answer, and no action" for key in answer if key not in keys}
    if not keys:
        raise DatasetError(
            f"which array of the answer is the action? It has {', '.join(sorted(arrays)) or 'none'}; expected action, "
            f"actions or action.PART"
        )
    rows = [first_action(arrays[key]) for key in keys]
    return Feature("action", tuple(keys), "array", _dtype(np.concatenate(rows)), (sum(map(len, rows)),))


def _arrays(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if isinstance(value, np.ndarray) and value.size}


def first_action(values: Any) -> Any:
    """Returns the first action, of shape (D,), of what a policy answers: (D,), (T, D) or (1, T, D)."""
    return values.reshape(-1, values.shape[-1])[0] if values.ndim else values.reshape(1)


def _dtype(values: Any) -> str:
    """Returns the dtype of a column: numpy's name; float32 for those that a dataset has no name for."""
    name = str(values.dtype.name)
    return "float32" if name in ("bfloat16", "float16") else name


def _shape(values: Any) -> tuple[int, ...]:
    """Returns the shape in a column, whose type has no more than so many axes."""
    return values.shape or (1,) if values.ndim <= _MOST_AXES else (values.size,)


def _image_name(key: str) -> str:
    return _IMAGES + _plain(key.removeprefix(_IMAGES).removeprefix("camera/"))


def _plain(key: str) -> str:
    """Returns a key as part of a feature's name, which has no slash."""
    return key.strip("/").replace("/", ".")


def _unlike(shapes: dict[tuple[Feature, ...], str]) -> str:
    """Says how the features differ between robots or over time."""
    (one, who), (other, other_who) = list(shapes.items())[:2]
    mine, its = ({feature.name: feature for feature in features} for features in (one, other))
    name = min(name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name))
    described = " and ".join(
        f"{owner} has {'none' if feature is None else f'{feature.dtype} {feature.shape}'}"
        for owner, feature in ((who, mine.get(name)), (other_who, its.get(name)))
    )
    there = mine.get(name) or its[name]
    leave = "" if name == "action" else f", or leave it out with --without {there.keys[0]}"
    return f"one dataset has one kind of robot: of {name} {described} (choose with --model or --robot{leave})"


def _without_pauses(episode: Episode, pause_s: float) -> list[Episode]:
    """Returns the episode's parts between pauses, with their requests in order."""
    episode.asked.sort()
    parts: list[Episode] = []
    before_ns = -(10**18)
    for asked in episode.asked:
        if asked[0] - before_ns > pause_s * 1e9:
            parts.append(Episode(episode.client_id, episode.client_type, episode.model_id, episode.session))
        parts[-1].asked.append(asked)
        before_ns = asked[0]
    return parts


def _usual_rate(episodes: list[Episode]) -> int:
    """Returns the median rate of the requests in whole Hz."""
    gaps = [after - before for episode in episodes for (before, _), (after, _) in pairwise(episode.asked)]
    usual_ns = statistics.median(gaps) if gaps else 1e9
    return max(1, min(round(1e9 / max(usual_ns, 1.0)), _FASTEST_HZ))


def _steps(asked: list[tuple[int, int]], fps: int) -> list[tuple[int, int]]:
    """Returns for each step of 1/fps, from the first request to the last, the request that is nearest in time."""
    times = [received_ns for received_ns, _ in asked]
    period_ns = 1e9 / fps
    count = round((times[-1] - times[0]) / period_ns) + 1
    steps: list[tuple[int, int]] = []
    for step in range(count):
        at = times[0] + step * period_ns
        after = min(bisect_left(times, at), len(times) - 1)
        before = max(after - 1, 0)
        nearest = before if at - times[before] <= times[after] - at else after
        steps.append(asked[nearest])
    return steps
