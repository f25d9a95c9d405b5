"""A policy saved by LeRobot as a model: `target: lerobot:FOLDER`, of its `save_pretrained`.

Robots are batched: a batch goes through the saved preprocessor, `predict_action_chunk` and the saved postprocessor.
`select_action` is never called: its queues are one for all robots. A policy that sees several steps (diffusion) gets
the last ones of each robot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inferential.errors import InvalidObservation
from inferential.policies.batching import result_of
from inferential.policies.files import check_count
from inferential.policies.lerobot_folder import SavedParts, read_folder
from inferential.policies.lerobot_rtc import LeftOver, rtc_of
from inferential.policies.tensors import Array, TensorSpec, pick

DEFAULT_MAX_BATCH_SIZE = 8
_LEAST_OF_FLOATS, _MOST_OF_FLOATS = -0.5, 2.0  # in an image: others are not of 0 to 1, these may come of resizing
TASK = "task"
"""The key of an observation's instruction, a string; none is an empty one."""
_IMAGES = "observation.images."
_STATE = "observation.state"
_EMPTY_CAMERA = _IMAGES + "empty_camera_"
"""How LeRobot names inputs that stand for cameras which no robot has (`empty_cameras` of VLAs)."""
_RESNET = "act"
"""A policy whose images go to a ResNet as they are."""
_QUEUED = ("vqbet", "multi_task_dit")
"""Policies whose predict_action_chunk reads queues, which its select_action would fill for one robot."""


def open_lerobot(
    path: str,
    *,
    device: str | None = None,
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
    rename: Mapping[str, str] | None = None,
    resize_images: bool = True,
    overrides: Mapping[str, Any] | None = None,
    rtc: Mapping[str, Any] | None = None,
) -> LeRobotPolicy | LeRobotHistoryPolicy:
    """Returns the policy in a folder.

    Args:
        path: of the folder: config.json, model.safetensors and the processors' files.
        device: as torch names it; "cuda" where there is one, else "cpu", by default.
        max_batch_size: rows in one call.
        rename: keys of the policy's inputs by the keys that robots send.
        resize_images: whether images of another size are resized, as LeRobot's own server does; else they are refused.
        overrides: fields of the policy's configuration to change, as `{num_inference_steps: 10}`.
        rtc: fields of LeRobot's RTCConfig to change, as `{execution_horizon: 10}`, of a policy with real-time chunking.

    Raises:
        PolicyFileError: there is no such policy, or LeRobot cannot load it.
        ValueError: naming the argument.
    """
    check_count("max_batch_size", max_batch_size)
    for name, value in (("rename", rename), ("overrides", overrides), ("rtc", rtc)):
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{name}: expected a map, got {value!r}")
    if type(resize_images) is not bool:
        raise ValueError(f"resize_images: expected true or false, got {resize_images!r}")
    saved = read_folder(path, device, overrides or {})
    sees_history = int(getattr(saved.config, "n_obs_steps", 1) or 1) > 1
    made = LeRobotHistoryPolicy if sees_history else LeRobotPolicy
    return made(saved, max_batch_size, rename or {}, resize_images, rtc)


@dataclass(frozen=True, slots=True)
class _Row:
    """A robot's inputs, and what it has left of its chunk."""

    inputs: dict[str, Any]
    left: LeftOver | None


class _SavedPolicy:
    """Runs a policy of LeRobot on observations of several robots at once.

    A result is `actions`: (steps, dimensions), a chunk in the robot's units.

    Args:
        saved: the policy and its processors.
        max_batch_size: rows in one call.
        rename: keys of the policy's inputs by those that robots send.
        resize_images: whether images of another size are resized.
        rtc: options of real-time chunking.
    """

    def __init__(
        self,
        saved: SavedParts,
        max_batch_size: int,
        rename: Mapping[str, str],
        resize_images: bool,
        rtc: Mapping[str, Any] | None,
    ) -> None:
        policy, config = saved.policy, saved.config
        self._policy = policy
        self._type = str(config.type)
        self._before, self._after = saved.processors
        self._memory_format = _memory_format(self._type)
        self._rename = dict(rename)
        self._resizes = resize_images
        self._steps = int(getattr(config, "n_obs_steps", 1) or 1)
        self._images: dict[str, tuple[int, int, int]] = {}
        self._states: list[TensorSpec] = []
        for key, feature in config.input_features.items():
            if key.startswith(_EMPTY_CAMERA):
                continue
            if feature.type.name == "VISUAL":
                self._images[key] = tuple(feature.shape)
            else:
                self._states.append(TensorSpec(key, "float32", tuple(feature.shape)))
        unknown = set(self._rename.values()) - {*self._images, *(one.name for one in self._states), TASK}
        if unknown:
            known = ", ".join([*self._images, *(one.name for one in self._states)])
            raise ValueError(f"rename: the policy has no input {sorted(unknown)[0]!r}; it has {known}")
        self._outputs = {key: tuple(feature.shape) for key, feature in config.output_features.items()}
        self._rtc = rtc_of(policy, rtc, next(iter(self._outputs.get("action", ())), None))
        self.max_batch_size = max_batch_size

    @property
    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs, the kind of policy, and how many steps of observations it sees."""
        images = [TensorSpec(key, "uint8", (*sizes, channels)) for key, (channels, *sizes) in self._images.items()]
        dimensions = self._outputs.get("action", (None,))
        return {
            "platform": "lerobot",
            "max_batch_size": self.max_batch_size,
            "policy_type": self._type,
            "inputs": [
                one.as_dict()
                for one in (
                    *self._states,
                    *images,
                    TensorSpec(TASK, "string", (), optional=True),
                    *(self._rtc.inputs if self._rtc is not None else ()),
                )
            ],
            "outputs": [TensorSpec("actions", "float32", (None, *dimensions)).as_dict()],
            "n_obs_steps": self._steps,
        }

    def answers(
        self, observations: Sequence[Mapping[str, Any]], sessions: Sequence[Any]
    ) -> list[dict[str, Any] | InvalidObservation]:
        """Returns for each observation a chunk of actions, or the error of one that does not fit.

        Args:
            observations: arrays and strings by key.
            sessions: the robots', whose `state` keeps what a robot has shown before; None: nothing is kept.
        """
        outcomes: list[Any] = [None] * len(observations)
        calls: dict[int, list[tuple[int, _Row]]] = {}
        for number, observation in enumerate(observations):
            try:
                row = self._row(observation)
            except InvalidObservation as error:
                outcomes[number] = error
            else:
                calls.setdefault(0 if row.left is None else len(row.left.actions), []).append((number, row))
        for rows in calls.values():
            sound = [sessions[number] for number, _ in rows]
            for (number, _), actions in zip(rows, self._run([row for _, row in rows], sound), strict=True):
                outcomes[number] = {"actions": actions}
        return outcomes

    def _row(self, observation: Mapping[str, Any]) -> _Row:
        """Returns a robot's inputs: float32 states, images (3, H, W) of 0 to 1, and the task."""
        named = {self._rename.get(str(key), str(key)): value for key, value in observation.items()}
        states = pick(self._states, self._by_full_name(named, [one.name for one in self._states]))
        images = self._by_full_name(named, list(self._images))
        row: dict[str, Any] = dict(states)
        for key, shape in self._images.items():
            row[key] = self._image(key, shape, images, named)
        row[TASK] = _task(named.get(TASK, named.get("prompt", named.get("instruction", ""))))
        return _Row(row, None if self._rtc is None else self._rtc.left_over(named))

    @staticmethod
    def _by_full_name(named: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
        """Returns what was sent, by the policy's names: `observation/state` and `state` are `observation.state`."""
        found = {}
        for key in keys:
            slashed = key.replace(".", "/")
            short = key.removeprefix(_IMAGES).removeprefix("observation.")
            for candidate in (key, slashed, short, f"images.{short}", f"images/{short}"):
                if candidate in named:
                    found[key] = named[candidate]
                    break
        return found if len(found) == len(keys) else {**named, **found}

    def _image(
        self, key: str, shape: tuple[int, int, int], images: Mapping[str, Any], named: Mapping[str, Any]
    ) -> Array:
        if key not in images:
            came = ", ".join(sorted(named)) or "nothing"
            raise InvalidObservation(f"{key!r} is missing: expected an image, got {came}")
        image = np.asarray(images[key])
        channels, height, width = shape
        image = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
        came = f"{image.dtype.name} {list(image.shape)}"
        expected = f"{key!r}: expected an image, uint8 [{height}, {width}, {channels}], got {came}"
        if image.ndim != 3 or (image.dtype != np.uint8 and image.dtype.kind != "f"):
            raise InvalidObservation(expected)
        if image.dtype != np.uint8 and image.size:
            for value in (image.min(), image.max()):  # either is NaN where there is one
                if not _LEAST_OF_FLOATS <= value <= _MOST_OF_FLOATS:
                    raise InvalidObservation(
                        f"{key!r}: expected an image of floats from 0 to 1, got the value {value:g}"
                    )
        if image.shape[-1] == channels:
            image = np.moveaxis(image, -1, 0)
        if image.shape[0] != channels or not image.size or (image.shape[1:] != (height, width) and not self._resizes):
            raise InvalidObservation(expected)
        scaled: Array = np.ascontiguousarray(image, np.float32)
        return scaled / np.float32(255) if image.dtype == np.uint8 else scaled

    def _run(self, rows: Sequence[_Row], sessions: Sequence[Any]) -> list[Array]:
        """Returns the chunks of rows that have as many steps left of theirs."""
        import torch

        # Guidance by what is left takes gradients, which tensors of the inference mode never have.
        with torch.inference_mode() if self._rtc is None else torch.no_grad():
            batch: dict[str, Any] = {TASK: [row.inputs[TASK] for row in rows]}
            for spec in self._states:
                batch[spec.name] = torch.from_numpy(np.stack([row.inputs[spec.name] for row in rows]))
            for key, (_, height, width) in self._images.items():
                images = torch.stack([_resized(row.inputs[key], height, width) for row in rows])
                batch[key] = images.contiguous(memory_format=self._memory_format)
            lefts = [row.left for row in rows if row.left is not None]
            if lefts:
                batch["action"] = torch.from_numpy(np.stack([left.actions for left in lefts]))
            ready = dict(self._before(batch))
            guidance = self._rtc.arguments(ready, lefts) if self._rtc is not None and lefts else {}
            if self._steps > 1 or self._type in _QUEUED:
                ready = self._with_history(ready, sessions)
            if self._type in _QUEUED:
                ready = self._queue(ready)
            chunk = self._after(self._policy.predict_action_chunk(ready, **guidance))
        actions: Array = chunk.to("cpu", torch.float32).numpy()
        return list(actions)

    def _with_history(self, ready: Mapping[str, Any], sessions: Sequence[Any]) -> dict[str, Any]:
        """Returns the batch with the last steps of each robot, (B, T, ...); the first one is repeated."""
        import torch

        keys = [spec.name for spec in self._states] + list(self._images)
        histories = []
        for number, session in enumerate(sessions):
            now = {key: ready[key][number] for key in keys}
            history = deque([now] * self._steps, maxlen=self._steps)
            if session is not None:
                if session.state is None:  # the episode begins
                    session.state = history
                history = session.state
                history.append(now)
            histories.append(history)
        stacked = {key: torch.stack([torch.stack([step[key] for step in one]) for one in histories]) for key in keys}
        return {**ready, **stacked}

    def _queue(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Puts the robots' steps, (B, T, ...), in the policy's queues, as a queue of batches."""
        import torch

        whole = {key: value for key, value in ready.items() if value is not None}  # its action is None
        if self._images:
            whole["observation.images"] = torch.stack([ready[key] for key in self._images], dim=-4)
        self._policy.reset()
        for key, queue in self._policy._queues.items():
            if key in whole:
                queue.extend(whole[key].unbind(1))
        return whole


class LeRobotPolicy(_SavedPolicy):
    """A policy that sees the present alone, as ACT; `open_lerobot` makes it."""

    def infer(self, observation: Mapping[str, Any]) -> Any:
        """Returns one robot's chunk; raises InvalidObservation where the observation does not fit the inputs."""
        return result_of(self.answers([observation], [None])[0])

    def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Returns for each observation a chunk of actions, or the error of one that does not fit."""
        return self.answers(observations, [None] * len(observations))


class LeRobotHistoryPolicy(_SavedPolicy):
    """A policy that sees several steps of each robot, as diffusion; `open_lerobot` makes it."""

    def infer(self, observation: Mapping[str, Any], session: Any) -> Any:
        """Returns one robot's chunk; raises InvalidObservation where the observation does not fit the inputs."""
        return result_of(self.answers([observation], [session])[0])

    def infer_batch(self, observations: Sequence[Mapping[str, Any]], sessions: Sequence[Any]) -> list[Any]:
        """Returns for each observation a chunk of actions, or the error of one that does not fit."""
        return self.answers(observations, sessions)


def _task(given: Any) -> str:
    """Returns a robot's instruction; raises InvalidObservation where it is not one text."""
    texts = [given] if isinstance(given, str) else np.asarray(given, object).reshape(-1).tolist()
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise InvalidObservation(f"{TASK!r}: expected one string, got {given!r:.80}")
    return texts[0]


def _memory_format(policy_type: str) -> Any:
    """Returns how a batch of images lies in memory: by pixels for a ResNet, which a CPU runs in a tenth less time so.

    For other policies it lies by channels, as LeRobot's own processors have it.
    """
    import torch

    return torch.channels_last if policy_type == _RESNET else torch.contiguous_format


def _resized(image: Array, height: int, width: int) -> Any:
    import torch

    tensor = torch.from_numpy(image)
    if tensor.shape[1:] == (height, width):
        return tensor
    resized = torch.nn.functional.interpolate(tensor[None], size=(height, width), mode="bilinear", align_corners=False)
    return resized[0]
