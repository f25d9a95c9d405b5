"""Checks what LeRobot's robots say, and makes of it what models see; takes the actions from answers. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from inferential.gateway.lerobot.pickles import Record

_OBSERVATION = "observation."
_IMAGES = "observation.images."
_STATE = "observation.state"
_TASK = "task"
_SIMILAR = 1.0  # in the units of the joints, as in lerobot's `observations_similar`
_MAX_TIMESTEP = 2**53
_MAX_NAMES = 4096
"""Of motors in all vectors together. A pickle says a list once and has it in many places, each of which is a copy."""

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyInstructions:
    """What a robot says about itself when it begins (`RemotePolicyConfig`).

    Attributes:
        vectors: names of motors by the key of the vector that they form for the model, in its order.
        cameras: names of cameras by the key of their image for the model.
        rename_map: keys for the model in place of LeRobot's.
        actions_per_chunk: how many actions of a chunk it wants at most.
        policy: what it would have loaded, for people.
    """

    vectors: dict[str, tuple[str, ...]]
    cameras: dict[str, str]
    rename_map: dict[str, str]
    actions_per_chunk: int
    policy: str = ""


@dataclass(frozen=True, slots=True)
class TimedObservation:
    """One observation.

    Attributes:
        timestamp: seconds of the robot's wall clock.
        timestep: the action that the robot played last.
        values: numbers by motor, images by camera, the task.
        must_go: the robot has no actions left, and asks for an answer in any case.
        captured_at: the time of `timestamp` in seconds of the server's `time.monotonic()`; None: not known yet.
    """

    timestamp: float
    timestep: int
    values: Values = field(repr=False)
    must_go: bool
    captured_at: float | None = None


def instructions_of(message: Any) -> PolicyInstructions:
    """Returns the instructions in a message.

    Raises:
        ValueError: naming the field that is missing or not what it should be.
    """
    fields = _fields(message, "RemotePolicyConfig")
    features = _field(fields, "lerobot_features", dict)
    vectors, cameras, count = {}, {}, 0
    for key, feature in features.items():
        if type(feature) is not dict:
            raise ValueError(f"lerobot_features: {key[:80]}: expected a map, got {type(feature).__name__}")
        if not key.startswith(_OBSERVATION):
            continue
        kind, shape = feature.get("dtype"), feature.get("shape")
        if kind in ("image", "video"):
            cameras[key] = key.removeprefix(_IMAGES)
        elif kind == "float32" and type(shape) is tuple and len(shape) == 1:
            names = feature.get("names")
            if type(names) is not list or not all(type(name) is str for name in names):
                raise ValueError(f"lerobot_features: {key[:80]}: expected a list of names")
            vectors[key] = tuple(names)
            count += len(names)
            if count > _MAX_NAMES:
                raise ValueError(f"lerobot_features: expected the names of at most {_MAX_NAMES} motors")
    rename_map = _field(fields, "rename_map", dict) if "rename_map" in fields else {}
    if not all(type(name) is str for name in rename_map.values()):
        raise ValueError("rename_map: expected text by text")
    actions_per_chunk = _field(fields, "actions_per_chunk", int)
    if not 0 < actions_per_chunk < 100_000:
        raise ValueError(f"actions_per_chunk: expected 1 to 99999, got {actions_per_chunk}")
    policy = " ".join(_shown(fields.get(name)) for name in ("policy_type", "pretrained_name_or_path"))
    return PolicyInstructions(vectors, cameras, rename_map, actions_per_chunk, policy)


def observation_of(message: Any) -> TimedObservation:
    """Returns the observation in a message.

    Raises:
        ValueError: naming the field or value that is missing or not what it should be.
    """
    fields = _fields(message, "TimedObservation")
    values = _field(fields, "observation", dict)
    for name, value in values.items():
        if not isinstance(value, bool | int | float | str | np.ndarray):
            expected = "a number, an array or text"
            raise ValueError(f"observation: {name[:80]}: expected {expected}, got {type(value).__name__}")
    values = {name: _plain(value) for name, value in values.items()}
    timestamp, timestep = fields.get("timestamp"), _field(fields, "timestep", int)
    if type(timestamp) is not float or not abs(timestamp) < _MAX_TIMESTEP:
        raise ValueError("timestamp: expected seconds, a float")
    if not 0 <= timestep < _MAX_TIMESTEP:
        raise ValueError(f"timestep: expected 0 to 2**53, got {timestep}")
    return TimedObservation(timestamp, timestep, values, _field(fields, "must_go", bool))


def without_arrays(observation: TimedObservation) -> TimedObservation:
    """Returns the observation without its images, which would keep the whole message in memory."""
    values = {name: value for name, value in observation.values.items() if not isinstance(value, np.ndarray)}
    return replace(observation, values=values)


def model_values(observation: TimedObservation, instructions: PolicyInstructions) -> Values:
    """Returns what the model sees: vectors (float32), images as they were sent, and the task.

    Raises:
        ValueError: naming a motor or camera that the instructions have and the observation has not.
    """
    sent, values = observation.values, {}
    for key, names in instructions.vectors.items():
        values[key] = np.array([_number(sent, name) for name in names], np.float32)
    for key, camera in instructions.cameras.items():
        image = sent.get(camera)
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise ValueError(f"observation: {camera[:80]}: expected the image of a camera")
        values[key] = image
    if isinstance(sent.get(_TASK), str):
        values[_TASK] = sent[_TASK]
    return {instructions.rename_map.get(key, key): value for key, value in values.items()}


def are_similar(one: TimedObservation, other: TimedObservation, instructions: PolicyInstructions) -> bool:
    """Returns whether the joints lie less than 1 apart, by their Euclidean distance, as LeRobot's server compares."""
    names = instructions.vectors.get(_STATE, ())
    distance = np.linalg.norm([_number(one.values, name) - _number(other.values, name) for name in names])
    return bool(distance < _SIMILAR)


def actions_in(answer: Mapping[str, Any], count: int) -> np.ndarray[Any, Any]:
    """Returns the first `count` actions of an answer, of shape (T, D).

    Raises:
        ValueError: it has no `actions` of shape (T, D), (1, T, D) or (D,).
    """
    actions = answer.get("actions")
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "biufV":
        raise ValueError(f"the model's answer has no array 'actions', but {', '.join(answer) or 'nothing'}")
    array = actions.astype(np.float32)  # bfloat16 among others
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[np.newaxis]
    if array.ndim != 2 or not array.size:
        raise ValueError(f"the model's actions have the shape {actions.shape}; expected (T, D)")
    return array[:count]


def _plain(value: Any) -> Any:
    """Returns arrays of one number as that number: some robots have their motors so."""
    return value.item() if isinstance(value, np.ndarray) and value.shape in ((), (1,)) else value


def _number(values: Values, name: str) -> float:
    value = values.get(name)
    if not isinstance(value, bool | int | float):
        raise ValueError(f"observation: {name[:80]}: expected the number of a motor")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"observation: {name[:80]}: expected the number of a motor, got one beyond 1e308") from error


def _shown(value: Any) -> str:
    """Returns a text for people; of other values their type, for lists within lists may be endless as text."""
    return value[:80] if type(value) is str else type(value).__name__


def _fields(message: Any, name: str) -> dict[str, Any]:
    if type(message) is not Record or message.name != name:
        found = message.name if type(message) is Record else type(message).__name__
        raise ValueError(f"expected a {name}, got {found}")
    return message.fields


def _field(fields: dict[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value
